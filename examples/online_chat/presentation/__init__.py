"""The page's side: HTTP, and the protocol over the socket."""
