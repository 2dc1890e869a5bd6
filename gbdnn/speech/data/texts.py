"""Texts of two domains over the same words, and plain words out of any text.

The source domain, which a recogniser is trained on, draws words independently; in the target domain
(telephone numbers, dates, times of day) little may follow a word. Only the prior of texts differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

import numpy as np

from gbdnn import checks
from gbdnn.errors import InputError

__all__ = ["DIGITS", "WORDS", "distinct", "normalised", "source_text", "spelled", "target_text"]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
         "eighteen", "nineteen")  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
            "tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth",
            "seventeenth", "eighteenth", "nineteenth", "twentieth")  # fmt: skip
MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september",
          "october", "november", "december")  # fmt: skip
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
OTHERS = ("oh", "double", "hundred", "thousand", "and", "the", "of", "on", "at", "past", "to",
          "half", "quarter", "call", "number", "thirtieth", "morning", "afternoon",
          "evening")  # fmt: skip
WORDS = (*DIGITS, *TEENS, *TENS, *ORDINALS, *MONTHS, *WEEKDAYS, *OTHERS)
"""The words of both domains."""


def source_text(
    rng: np.random.Generator,
    *,
    words: tuple[int, int] = (3, 7),
    digits: float = 0.4,
    pool: Sequence[str] = WORDS,
) -> str:
    """Return words drawn independently and uniformly from a pool, or from the digits alone.

    Parameters
    ----------
    rng : Generator
    words : (int, int)
        Least and largest number of words, drawn uniformly.
    digits : float
        Share of the texts that are strings of digits.
    pool : sequence of str
        Words of the other texts.
    """
    count = int(rng.integers(words[0], words[1] + 1))
    if rng.random() < digits:
        pool = DIGITS
    return " ".join(pool[k] for k in rng.integers(len(pool), size=count))


def target_text(rng: np.random.Generator) -> str:
    """Return a telephone number, a date or a time of day, each as likely."""
    return (_telephone, _date, _time)[int(rng.integers(3))](rng)


def _telephone(rng: np.random.Generator) -> str:
    """Such as "call five five five eight oh double two": an exchange out of five, a free end."""
    exchange = ("five five five", "four seven two", "nine one one", "six two six", "three oh eight")
    digits = [("oh", *DIGITS[1:])[k] for k in rng.integers(10, size=4)]
    if digits[2] == digits[3]:
        digits[2:] = ["double", digits[3]]
    words = ["call", exchange[int(rng.integers(len(exchange)))], *digits]
    return " ".join(words if rng.random() < 0.7 else ["call", "number", *words[1:]])


def _date(rng: np.random.Generator) -> str:
    """Such as "on friday the twenty third of may"."""
    day = int(rng.integers(1, 32))
    tens, ones = divmod(day, 10)
    if day <= 20:
        ordinal = ORDINALS[day - 1]
    else:
        ordinal = f"{TENS[tens - 2]} {ORDINALS[ones - 1]}" if ones else "thirtieth"
    weekday = WEEKDAYS[int(rng.integers(len(WEEKDAYS)))]
    month = MONTHS[int(rng.integers(len(MONTHS)))]
    return f"on {weekday} the {ordinal} of {month}"


def _time(rng: np.random.Generator) -> str:
    """Such as "at quarter past seven on monday morning"."""
    hour = (*DIGITS[1:], *TEENS[:3])[int(rng.integers(12))]
    ahead = (*DIGITS[1:], *TEENS, "twenty", *(f"twenty {one}" for one in DIGITS[1:]))
    kind = int(rng.integers(4))
    if kind == 0:
        clock = ("half past", "quarter past", "quarter to")[int(rng.integers(3))] + f" {hour}"
    elif kind == 1:
        clock = ahead[int(rng.integers(len(ahead)))] + f" to {hour}"
    elif kind == 2:
        clock = ahead[int(rng.integers(len(ahead)))] + f" past {hour}"
    else:
        clock = f"{hour} {('ten', 'twenty', 'thirty', 'forty', 'fifty')[int(rng.integers(5))]}"
    weekday = WEEKDAYS[int(rng.integers(len(WEEKDAYS)))]
    part = ("morning", "afternoon", "evening")[int(rng.integers(3))]
    return f"at {clock} on {weekday} {part}"


def distinct(
    make: Callable[[np.random.Generator], str],
    count: int,
    rng: np.random.Generator,
    without: Collection[str] = (),
) -> list[str]:
    """Return texts of a generator that differ from each other and from those in `without`.

    Raises
    ------
    InputError
        When the generator hardly makes new ones any more.
    """
    found: dict[str, None] = {}
    seen, vain = set(without), 0
    while len(found) < checks.count("count", count, 0):
        text = make(rng)
        if text in seen:
            vain += 1
            if vain > 100 + 20 * count:
                got = f"{count:,}, of which {len(found):,} were found"
                raise InputError("count", "fewer texts than the generator has", got)
            continue
        seen.add(text)
        found[text] = None
    return list(found)


def spelled(number: int) -> str:
    """Return a whole number from 0 to 999,999 in words, "two hundred five"."""
    if not 0 <= number < 1_000_000:
        raise InputError("number", "0 to 999,999", str(number))
    if number < 10:
        return DIGITS[number]
    if number < 20:
        return TEENS[number - 10]
    for unit, word in ((1000, "thousand"), (100, "hundred")):
        if number >= unit:
            high, low = divmod(number, unit)
            return f"{spelled(high)} {word}" + (f" {spelled(low)}" if low else "")
    tens, ones = divmod(number, 10)
    return TENS[tens - 2] + (f" {DIGITS[ones]}" if ones else "")


def normalised(text: str) -> str:
    """Return plain words: small letters, numbers spelled, no punctuation but apostrophes in words.

    Examples
    --------
    >>> normalised("Please press 12 -- or wait!")
    'please press twelve or wait'
    """
    text = text.lower().replace("’", "'")

    def number(match: re.Match[str]) -> str:
        digits = match[0]
        if len(digits) > 6 or (len(digits) > 1 and digits[0] == "0"):
            return " " + " ".join(DIGITS[int(digit)] for digit in digits) + " "
        return f" {spelled(int(digits))} "

    text = re.sub(r"[0-9]+", number, text)
    text = re.sub(r"[^\w']+|_", " ", text)
    return " ".join(word for raw in text.split() if (word := raw.strip("'")))
