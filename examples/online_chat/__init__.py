"""A chat: rooms are topics, chatters are consumers, and any number of servers form one chat.

`contracts` is what the servers tell each other, `domain` what a name is and who is present,
`application` who gets what, `presentation` the page's side: HTTP and the protocol of the socket.
`app` puts it all together; `page` is what browsers get.
"""
