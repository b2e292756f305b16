import re

_LONGEST = 254  # RFC 5321, less the angle brackets

# Not all that the RFCs allow, but what people have. The mail server has the last word anyway.
_looks_right = re.compile(
    r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}"
).fullmatch


class InvalidEmailError(ValueError):
    def __init__(self, given: str) -> None:
        super().__init__(f"{given!r} is not an email address")


def email_address(given: str) -> str:
    """Return the address in the one form that is stored, or raise `InvalidEmailError`."""
    address = given.strip().lower()
    if len(address) > _LONGEST or not _looks_right(address):
        raise InvalidEmailError(given)
    return address
