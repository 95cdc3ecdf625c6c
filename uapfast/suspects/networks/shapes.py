"""Names and shapes of the weights that a network takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from uapfast.models.fitting import ExpectedState, check_whole, fit


class Shapes(dict[str, tuple[int, ...]]):
    """Names and shapes of an architecture's weights.

    Attributes:
        wants: the same, with types and the rules for values.
        places: where some of them begin in one tensor of all float32 weights, bytes.
        flat: size of that tensor, bytes.
        apart: those without a place in it.
    """

    def __init__(self, wants: ExpectedState) -> None:
        super().__init__(wants.shapes)
        self.wants = wants
        self.places: Mapping[str, int] = {}
        self.flat = 0
        self.apart = list(wants.shapes)

    def to_copy(
        self, tensors: Mapping[str, Tensor], path: object, fits: Shapes | None, flat: Tensor | None
    ) -> tuple[Mapping[str, Tensor], Iterable[str], Tensor | None]:
        """Weights, which of them are copied one by one, and what is copied at once.

        Unless they were found to fit already, they are checked, and come under the architecture's names.
        """
        if fits is self:
            return (tensors, tensors, None) if flat is None else (tensors, self.apart, flat)
        shapes, dtypes = {n: t.shape for n, t in tensors.items()}, {n: t.dtype for n, t in tensors.items()}
        tensors = fit(self.wants, shapes, dtypes, path).complete(tensors, self.wants)
        check_whole(self.wants, tensors, path)
        return tensors, tensors, None


__all__ = ["Shapes"]
