"""Arithmetic coder: symbols <-> the shortest bytes in their interval. Standard library only.

    from common.arithmetic_coder import Reader, Writer
    writer = Writer()
    writer.put(3, 1, 8)  # a symbol with the interval [3/8, 4/8)
    assert Reader(writer.bytes()).slot(8) == 3

A sequence of symbols is an interval of [0, 1); its code is the shortest byte string in it. A symbol
takes frequency / total of the interval that the symbols before it left.

The interval is [low, low + size) / 2**bits. size has 129 to 192 bits, so a symbol with a total
below 2**100 never gets an empty interval, and its cost is exact to 28 bits. low has as many bits as
it needs, so there is no carry to handle. All numbers are integers: every machine writes the same.

Source: Witten, Neal and Cleary 1987, "Arithmetic coding for data compression".
"""

MIN_SIZE = 1 << 128  # a smaller interval is scaled up
SCALE_BITS = 64  # by which an interval is scaled up


class Writer:
    """Narrows the interval [0, 1), symbol by symbol."""

    def __init__(self):
        self.low = 0
        self.size = MIN_SIZE
        self.bits = 128

    def put(self, start: int, frequency: int, total: int) -> None:
        """Narrow the interval to its part [start, start + frequency) / total.

        frequency is at least 1, total below 2**100.
        """
        below = self.size * start // total
        self.low += below
        self.size = self.size * (start + frequency) // total - below
        while self.size < MIN_SIZE:
            self.low <<= SCALE_BITS
            self.size <<= SCALE_BITS
            self.bits += SCALE_BITS

    def bytes(self) -> bytes:
        """Return the shortest bytes b with 0.b (base 256) in the interval, of equals the first."""
        length = max(0, self.bits - self.size.bit_length()) // 8
        while True:
            unused_bits = self.bits - 8 * length
            rounded_up = -(-self.low >> unused_bits)
            if rounded_up << unused_bits < self.low + self.size:
                return rounded_up.to_bytes(length, "big")
            length += 1


class Reader:
    """Follows the point 0.b (base 256) of some bytes b through the intervals; zeros follow b."""

    def __init__(self, data: bytes):
        self.data = data
        self.position = MIN_SIZE.bit_length() // 8  # of the next byte
        self.size = MIN_SIZE
        self.point = int.from_bytes(self._bytes(0, self.position), "big")  # from low on

    def slot(self, total: int) -> int:
        """Return which of the slots 0..total - 1 has the point; its symbol is the next one."""
        return ((self.point + 1) * total - 1) // self.size

    def take(self, start: int, frequency: int, total: int) -> None:
        """Narrow the interval to that of the symbol, as `Writer.put` does."""
        below = self.size * start // total
        self.point -= below
        self.size = self.size * (start + frequency) // total - below
        while self.size < MIN_SIZE:
            more = self._bytes(self.position, SCALE_BITS // 8)
            self.point = self.point << SCALE_BITS | int.from_bytes(more, "big")
            self.size <<= SCALE_BITS
            self.position += SCALE_BITS // 8

    def _bytes(self, position: int, count: int) -> bytes:
        return self.data[position : position + count].ljust(count, b"\0")
