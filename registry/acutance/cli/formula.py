"""The mathematics of a docstring, readable in a terminal: TeX commands become the signs they stand for."""

from __future__ import annotations

import re

# By command; a command that is not here is written as its name (max, log, tr ...).
SIGNS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε", "zeta": "ζ", "eta": "η",
    "theta": "θ", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ",
    "tau": "τ", "phi": "φ", "varphi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ",
    "Theta": "Θ", "Lambda": "Λ", "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω", "ell": "ℓ", "infty": "∞",
    "nabla": "∇", "partial": "∂", "sum": "∑", "prod": "∏", "int": "∫", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥",
    "ne": "≠", "neq": "≠", "approx": "≈", "propto": "∝", "equiv": "≡", "sim": "~", "ll": "≪", "gg": "≫", "to": "→",
    "rightarrow": "→", "mapsto": "↦", "in": "∈", "subset": "⊂", "odot": "⊙", "oslash": "⊘", "otimes": "⊗", "cdot": "·",
    "times": "×", "pm": "±", "top": "ᵀ", "star": "*", "ast": "*", "circ": "∘", "langle": "⟨", "rangle": "⟩", "|": "‖",
    "lVert": "‖", "rVert": "‖", "Vert": "‖", "vert": "|", "lvert": "|", "rvert": "|", "mid": "|", "dots": "…",
    "ldots": "…", "cdots": "…", "quad": "  ", "qquad": "   ", ",": " ", ";": " ", ":": " ", " ": " ", "!": "",
    "{": "{", "}": "}", "\\": "\n",
}  # fmt: skip
SILENT = {
    "left",
    "right",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "limits",
    "displaystyle",
    "nolimits",
}
FONTS = {"mathrm", "mathbf", "mathbb", "mathcal", "mathsf", "boldsymbol", "text", "textrm", "operatorname"}
PLAIN = {"-": "−", "'": "′", "&": "", "~": " "}
ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "widehat": "\u0302", "overline": "\u0304"}
RAISED, LOWERED = str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"), str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def readable(doc: str) -> str:
    """Return a docstring with its formulas in Unicode and without the marks of reStructuredText."""
    doc = re.sub(r"^\.\. math::(?:[ \t]*\n)*((?:.*\S.*(?:\n|$))(?:[ \t]+\S.*(?:\n|$))*)", _block, doc, flags=re.M)
    doc = re.sub(r":math:`([^`]*)`", lambda match: unicode(match[1]), doc)
    return re.sub(r"``([^`]*)``", r"\1", doc)


def _block(match: re.Match[str]) -> str:
    lines = unicode(" ".join(match[1].split())).splitlines()
    return "".join(f"    {line.strip()}\n" for line in lines)


def unicode(tex: str) -> str:
    """Return a formula of TeX in Unicode, on one line; what is not known is left as it is written."""
    text = re.sub(r"(⟨|∇²?) (?=[\w∇])| (?=⟩)", r"\1", _Reader(tex).read())
    return re.sub(r" {4,}", "   ", text).strip()


class _Reader:
    """Reads a formula from left to right; groups by recursion."""

    def __init__(self, tex: str) -> None:
        self.tokens = re.findall(r"\\[A-Za-z]+|\\.|\s+|.", tex, flags=re.S)[::-1]

    def read(self) -> str:
        """Read to the end of the formula or of the group."""
        parts: list[str] = []
        while self.tokens:
            if self.tokens[-1] == "}":
                self.tokens.pop()
                break
            parts.append(self.one())
        return "".join(parts)

    def argument(self) -> str:
        """Read one sign, command or group: what a command or a script applies to."""
        while self.tokens and self.tokens[-1].isspace():
            self.tokens.pop()
        return self.one() if self.tokens else ""

    def one(self) -> str:
        token: str = self.tokens.pop()
        if token == "{":
            return self.read()
        if token in "^_":
            return _script(token, self.argument())
        if token.startswith("\\") and len(token) > 1:
            return self.command(token[1:])
        if token.isspace():
            return " "
        return PLAIN.get(token, token)

    def command(self, name: str) -> str:
        if name in ("frac", "tfrac", "dfrac"):
            return f"{_bracketed(self.argument())}/{_bracketed(self.argument())}"
        if name == "sqrt":
            return "√" + _bracketed(self.argument())
        if name in ACCENTS:
            return self.argument() + ACCENTS[name]
        if name in ("begin", "end"):
            self.argument()
            return ""
        if name in FONTS:
            return self.argument()
        if name in SILENT:
            return ""
        if name in SIGNS:
            # In TeX the space after a command's name only ends it; one in front of a relation is for the eye.
            if self.tokens and self.tokens[-1].isspace() and (SIGNS[name].isalpha() or name in _TIGHT):
                self.tokens.pop()
                return SIGNS[name] + (" " if self.tokens and self.tokens[-1] in _RELATIONS else "")
            return SIGNS[name]
        return name


_TIGHT = {"nabla", "partial", ",", ";", ":", " "}
_RELATIONS = {"=", "+", "-", "<", ">", *(f"\\{name}" for name, sign in SIGNS.items() if sign in "≤≥≠≈∝≡~≪≫→↦∈⊂⊙⊘⊗·×±")}


def _script(mark: str, text: str) -> str:
    if text in ("ᵀ", "*", "′"):
        return text
    if text and text.translate(RAISED if mark == "^" else LOWERED) != text and all(c in "0123456789" for c in text):
        return text.translate(RAISED if mark == "^" else LOWERED)
    return mark + (text if _is_word(text) else f"{{{text}}}")


def _is_word(text: str) -> bool:
    return bool(re.fullmatch(r"\w+|.", text))


def _bracketed(text: str) -> str:
    return text if _is_word(text) else f"({text})"
