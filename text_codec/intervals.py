"""Arithmetic coding: a sequence of symbols is an interval of [0, 1), its code the shortest byte string in it.

    writer = Writer()
    writer.put(3, 1, 8)         # a symbol that owns the share [3/8, 4/8) of the interval
    Reader(writer.bytes()).slot(8) == 3

An interval is [low, low + size) / 2**bits, and size has 129 to 192 bits, so that shares of totals below 2**100 are
never empty and cost what they should to 28 bits. low has as many bits as it takes: there is no carry to think of. All
numbers are whole, so no two machines differ.

Source: Witten, Neal and Cleary 1987, "Arithmetic coding for data compression".
"""

STEP = 64  # bits by which an interval is magnified
SMALLEST = 1 << 128  # a smaller interval is magnified


class Writer:
    """Narrows the interval [0, 1), symbol by symbol."""

    def __init__(self):
        self.low, self.size, self.bits = 0, SMALLEST, 128

    def put(self, start: int, share: int, total: int) -> None:
        """Narrow the interval to [start, start + share) / total of it; share is at least 1, total below 2**100."""
        below = self.size * start // total
        self.low += below
        self.size = self.size * (start + share) // total - below
        while self.size < SMALLEST:
            self.low, self.size, self.bits = self.low << STEP, self.size << STEP, self.bits + STEP

    def bytes(self) -> bytes:
        """The shortest bytes b with 0.b (base 256) in the interval; of those of one length the first."""
        length = max(0, self.bits - self.size.bit_length()) // 8
        while True:
            behind = self.bits - 8 * length
            first = -(-self.low >> behind)  # rounded up
            if first << behind < self.low + self.size:
                return first.to_bytes(length, "big")
            length += 1


class Reader:
    """Follows the point 0.b through the intervals; behind the bytes b come zeros."""

    def __init__(self, data: bytes):
        self.data, self.place = data, SMALLEST.bit_length() // 8
        self.size, self.point = SMALLEST, int.from_bytes(self._bytes(0, self.place), "big")  # the point, from low on

    def slot(self, total: int) -> int:
        """Which of 0..total - 1 the point is in; the symbol that owns it comes next."""
        return ((self.point + 1) * total - 1) // self.size

    def take(self, start: int, share: int, total: int) -> None:
        """Go on within the share of a symbol."""
        below = self.size * start // total
        self.point -= below
        self.size = self.size * (start + share) // total - below
        while self.size < SMALLEST:
            more = self._bytes(self.place, STEP // 8)
            self.point, self.size = self.point << STEP | int.from_bytes(more, "big"), self.size << STEP
            self.place += STEP // 8

    def _bytes(self, place: int, count: int) -> bytes:
        return self.data[place : place + count].ljust(count, b"\0")
