"""What a server refuses, beside invalid values."""


class Busy(Exception):
    """No place is free. retry_after: seconds after which it is worth asking again."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
