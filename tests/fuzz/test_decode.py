"""Hypothesis at the decoder's door: whatever the bytes, a picture or a PictureError.

`make fuzz` runs this for long; what it finds becomes a test in tests/pictures/.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from indexer.errors import PictureError
from indexer.pictures.decode import decode
from indexer.pictures.scan import identify
from indexer.preprocess import fit
from indexer.records import Preprocess

from ..pictures.samples import every_format

SAMPLES = sorted(every_format().values())
SPEC = Preprocess((16, 16))


@st.composite
def harmed(draw: st.DrawFn) -> bytes:
    """A picture of some format with some of its bytes cut, changed, doubled or exchanged with another's."""
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(1, 64))
        how = draw(st.sampled_from(["cut", "change", "double", "exchange"]))
        if how == "cut":
            del data[start : start + length]
        elif how == "change":
            data[start : start + length] = draw(st.binary(min_size=1, max_size=length))
        elif how == "double":
            data[start:start] = data[start : start + length]
        else:
            other = draw(st.sampled_from(SAMPLES))
            data[start : start + length] = other[start : start + length]
    return bytes(data)


@given(st.one_of(harmed(), st.binary(max_size=200)), st.booleans())
def test_a_picture_or_a_reason(data: bytes, told: bool) -> None:
    kind, reason = identify(data[:32], b"x.jpg")
    assert (kind is None) == (reason is not None)
    try:
        decoded = decode(data, kind if told else None, max_pixels=1_000_000)
    except PictureError as error:
        assert error.reason
        assert error.reason.isprintable()
        assert len(error.reason) < 200
        return
    assert decoded.picture.mode == "RGB"
    assert decoded.picture.size == (decoded.info.width, decoded.info.height)
    assert fit(decoded.picture, SPEC).shape == (16, 16, 3)
