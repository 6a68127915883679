"""All families of rows, in the order in which they are looked up."""

from __future__ import annotations

from typing import Final

from retiarii.ir.op_rows.activation import ACTIVATION
from retiarii.ir.op_rows.convolution import CONVOLUTION
from retiarii.ir.op_rows.dropout import DROPOUT
from retiarii.ir.op_rows.elementwise import ELEMENTWISE
from retiarii.ir.op_rows.factory import FACTORY
from retiarii.ir.op_rows.indexing import INDEXING
from retiarii.ir.op_rows.linear import LINEAR
from retiarii.ir.op_rows.matmul import MATMUL
from retiarii.ir.op_rows.normalisation import NORMALISATION
from retiarii.ir.op_rows.pooling import POOLING
from retiarii.ir.op_rows.randomness import RANDOMNESS
from retiarii.ir.op_rows.reduction import REDUCTION
from retiarii.ir.op_rows.sequence import SEQUENCE
from retiarii.ir.op_rows.shape import SHAPE
from retiarii.ir.op_rows.spatial import SPATIAL
from retiarii.ir.op_rows.spec import Row
from retiarii.ir.op_rows.structural import STRUCTURAL

FAMILIES: Final[tuple[tuple[Row, ...], ...]] = (
    STRUCTURAL,
    CONVOLUTION,
    LINEAR,
    MATMUL,
    NORMALISATION,
    POOLING,
    ACTIVATION,
    DROPOUT,
    SEQUENCE,
    ELEMENTWISE,
    SHAPE,
    SPATIAL,
    REDUCTION,
    FACTORY,
    RANDOMNESS,
    INDEXING,
)
