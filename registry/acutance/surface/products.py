"""Products with second derivatives of the loss and with the Jacobian of the logits, as a surface gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from acutance.surface.core import Core
from acutance.surface.input_gradient import input_gradient
from acutance.surface.second_order import SecondOrder

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface


class Products:
    """The part of a surface that differentiates a derivative again, or by something else than weights."""

    core: Core
    check: Callable[..., None]

    @property
    def _second(self) -> SecondOrder:
        raise NotImplementedError

    def hvp(self, v: Tensor, w: Tensor | None = None) -> Tensor:
        """Return the Hessian-vector product at w, (p,), by double backward.

        At w* the graph of the gradient is built once and reused, unless microbatching forbids keeping it;
        ``release`` frees it. Cost: n hvps; n forwards and n backwards for the graph.

        Raises:
            Unsupported: when some operation of the model has no second derivative.
        """
        self.check(derived=True)
        return self._second.hvp(v, w)

    def hvps(self, vs: Tensor) -> Tensor:
        """Return the Hessian-vector products with the rows of vs at w*, (k, p); k products' cost.

        ``products_together`` of them are best made at once.
        """
        self.check(derived=True)
        return self._second.hvps(vs)

    @property
    def products_together(self) -> int:
        """How many products ``hvps`` makes in one batched pass: 8 for tiny models without convolutions, else 1.

        Asking for it builds the graph of the gradient of a tiny model, which the products then use.
        """
        self.check()
        return self._second.together

    def jvp(self, v: Tensor, w: Tensor | None = None) -> Tensor:
        r"""Return :math:`J v`, (n, K): the derivative of ``logits`` (normalized when this surface is) along v, (p,).

        The logits are linearized once at w*, for all products, like the graph of ``hvp``. Cost: n backwards;
        n forwards and n backwards more for the linearization.

        Raises:
            Unsupported: when the backward pass of some operation of the model cannot be differentiated.
        """
        self.check()
        return self._second.jvp(v, w)

    def vjp(self, u: Tensor, w: Tensor | None = None) -> Tensor:
        r"""Return :math:`J^\top u`, (p,), for u, (n, K), of the shape of ``logits``.

        Cost: n backwards; n forwards more where the logits are not linearized yet.
        """
        self.check()
        return self._second.vjp(u, w)

    def ggnvp(self, v: Tensor, w: Tensor | None = None) -> Tensor:
        r"""Return the product with the generalized Gauss-Newton matrix, (p,).

        .. math:: G v = \tfrac1n \sum_i J_i^\top H_i J_i v

        with H_i the Hessian of the loss of example i in what the loss sees: the logits, or the normalized ones in
        a transformed view, with J the Jacobian of the same. So G is positive semi-definite for a loss that is
        convex in its argument (cross-entropy, mse), normalized or not. Cost: 2n backwards; n forwards and n
        backwards more for the linearization, which ``jvp`` and ``vjp`` share.

        Raises:
            Unsupported: when the backward pass of some operation of the model, or of the loss, cannot be
                differentiated.
        """
        self.check(derived=True)
        return self._second.ggnvp(v, w)

    def input_gradient(self, u: Tensor | None = None) -> Any:
        r"""Return the derivative of each example's loss by its own inputs, in the form of the inputs, first axis n.

        With u, (n, K), that of :math:`\langle u_i, f(x_i) \rangle` instead: a product with the transposed Jacobian of
        the logits (normalized when this surface is) by the inputs, which needs no targets. Cost: n forwards and n
        backwards.

        Args:
            u: (n, K), of the shape of ``logits``.

        Raises:
            Unsupported: for inputs that are whole numbers, a model that mixes examples or takes no derivative there.
        """
        self.check()
        return input_gradient(cast("LossSurface", self), u)
