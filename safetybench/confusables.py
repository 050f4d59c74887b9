"""Characters that look like Latin letters, or like nothing: what Unicode triggers are made of.

A table of our own for common fonts; Unicode lists thousands in confusables.txt. Needs no torch.
"""

from __future__ import annotations

# Latin letter -> characters of other scripts that are drawn (nearly) as it is.
ALIKE: dict[str, str] = {
    "a": "\u0430\u0251\u03b1", "b": "\u042c\u0184", "c": "\u0441\u03f2", "d": "\u0501",
    "e": "\u0435\u04bd", "g": "\u0261\u0581", "h": "\u04bb\u0570", "i": "\u0456\u03b9\u0131",
    "j": "\u0458\u03f3", "k": "\u03ba\u043a", "l": "\u04cf\u217c", "m": "\u043c",
    "n": "\u0578\u057c", "o": "\u043e\u03bf\u0585\u0b66\u0b20", "p": "\u0440\u03c1",
    "q": "\u051b\u0566", "r": "\u0433", "s": "\u0455", "t": "\u0442\u03c4", "u": "\u057d\u03c5",
    "v": "\u03bd\u0475", "w": "\u051d\u0461", "x": "\u0445\u03c7", "y": "\u0443\u04af\u03b3",
    "z": "\u1d22",
    "A": "\u0410\u0391", "B": "\u0412\u0392", "C": "\u0421\u03f9", "E": "\u0415\u0395",
    "H": "\u041d\u0397", "I": "\u0406\u0399", "J": "\u0408\u037f", "K": "\u041a\u039a",
    "L": "\u053c", "M": "\u041c\u039c", "N": "\u039d", "O": "\u041e\u039f\u0555",
    "P": "\u0420\u03a1", "S": "\u0405\u054f", "T": "\u0422\u03a4", "U": "\u054d",
    "V": "\u0474", "X": "\u0425\u03a7", "Y": "\u04ae\u03a5", "Z": "\u0396",
}  # fmt: skip
# Drawn as nothing; the category Cf has more, these are the ones that an attacker types.
ZERO_WIDTH = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u180e")
