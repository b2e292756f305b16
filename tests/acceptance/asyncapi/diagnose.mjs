// Prints what @asyncapi/parser says of the document on standard input, as JSON.
import parser from '@asyncapi/parser'
import { readFileSync } from 'node:fs'

const { diagnostics } = await new parser.Parser().parse(readFileSync(0, 'utf8'))
console.log(JSON.stringify(diagnostics.map(({ code, message, path, severity }) => ({ code, message, path, severity }))))
