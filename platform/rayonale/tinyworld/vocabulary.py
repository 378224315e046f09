"""Every word that means something in tinyworld.

A request names one of each:

    kind     8 things each, every thing of exactly one kind, told apart by spelling
    number   two to five
    order    alphabetical or its reverse
    tone     shown by marker words
    ending   a question, a shout, thanks or a goodbye
    word     a place that must be, or must not be, mentioned
"""

from typing import Final

ATTRIBUTES: Final = ("kind", "number", "order", "tone", "ending", "wording")

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "birds": ("crow", "dove", "eagle", "finch", "heron", "owl", "robin", "swan"),
    "fruits": ("apple", "banana", "cherry", "grape", "lemon", "mango", "orange", "pear"),
    "colors": ("amber", "blue", "green", "ivory", "pink", "red", "violet", "white"),
    "tools": ("axe", "brush", "drill", "hammer", "knife", "ladder", "saw", "wrench"),
    "animals": ("bear", "camel", "deer", "fox", "goat", "horse", "lion", "wolf"),
    "trees": ("ash", "birch", "cedar", "elm", "fir", "maple", "oak", "spruce"),
    "metals": ("brass", "copper", "gold", "iron", "nickel", "silver", "tin", "zinc"),
    "drinks": ("ale", "cider", "juice", "milk", "rum", "tea", "water", "vodka"),
    "clothes": ("belt", "coat", "dress", "glove", "hat", "jacket", "scarf", "tunic"),
    "instruments": ("banjo", "cello", "drum", "flute", "guitar", "harp", "lute", "piano"),
    "vehicles": ("bus", "car", "ferry", "jeep", "plane", "ship", "train", "van"),
    "vegetables": ("bean", "carrot", "garlic", "kale", "leek", "onion", "potato", "turnip"),
}

KIND_OF_ITEM: Final[dict[str, str]] = {
    item: kind for kind, items in KINDS.items() for item in items
}

NUMBERS: Final[dict[str, int]] = {"two": 2, "three": 3, "four": 4, "five": 5}

# The second value says whether the order is reversed.
ORDERS: Final[dict[str, bool]] = {
    "in alphabetical order": False,
    "in reverse alphabetical order": True,
}

TONES: Final[dict[str, tuple[str, ...]]] = {
    "cheerful": ("hooray", "lovely", "happy", "merry"),
    "sad": ("alas", "sadly", "gloomy", "tearful"),
    "calm": ("softly", "gently", "quiet", "peaceful"),
    "formal": ("hereby", "respectfully", "sincerely", "esteemed"),
}

TONE_OF_WORD: Final[dict[str, str]] = {
    word: tone for tone, words in TONES.items() for word in words
}

ENDINGS: Final = ("a question", "a shout", "thanks", "a goodbye")

PLACES: Final = (
    "river", "garden", "kitchen", "market", "forest", "school", "station", "harbor",
    "castle", "meadow", "bridge", "island", "museum", "village", "tower", "valley",
)  # fmt: skip

# --- what responses are built from; every word here counts as known to the rubric ---

OPENERS: Final[dict[str, tuple[str, ...]]] = {
    "cheerful": ("Hooray", "What a lovely day", "With a happy heart", "Merry friends"),
    "sad": ("Alas", "Sadly", "On a gloomy day", "With a tearful heart"),
    "calm": ("Softly", "Gently", "In a quiet hour", "On a peaceful day"),
    "formal": ("I hereby state", "Respectfully", "Sincerely", "Esteemed reader"),
    "none": ("Well", "Today", "As for me", "Listen"),
}

LEADS: Final = ("here are", "I see", "we have", "I name", "there are", "take")

FILLERS: Final = (
    "It was a fine day.",
    "I took my time with this.",
    "That took some thought.",
    "They came to mind at once.",
    "This is my pick.",
    "I made the list this morning and looked at it twice.",
)

CLOSINGS: Final[dict[str, tuple[str, ...]]] = {
    "a question": ("Do you like them?", "Is that fine?", "Shall we go?"),
    "a shout": ("What a list!", "There you go!", "So it is!"),
    "thanks": ("Thank you.", "Many thanks.", "With all my thanks."),
    "a goodbye": ("Goodbye.", "And so goodbye.", "For now, farewell."),
    "plain": ("That is all.", "So be it.", "Those are mine."),
}

# In the middle of a text these give the marker of an ending in the wrong place.
MISPLACED: Final[dict[str, str]] = {
    "a question": "Are you ready?",
    "a shout": "Look at this!",
    "thanks": "First of all, thank you.",
    "a goodbye": "Before I say goodbye, one more line.",
}

_LINKS: Final = ("and", "or", "the", "a", "an", "by", "near", "it", "is", "of", "to", "in", "by")


def _words_of(*texts: str) -> set[str]:
    marks = str.maketrans("", "", ".,!?;:")
    return {word for text in texts for word in text.lower().translate(marks).split()}


# Words a response may use without losing points for wording.
KNOWN_WORDS: Final[frozenset[str]] = frozenset(
    set(KIND_OF_ITEM)
    | {item + "s" for item in KIND_OF_ITEM}
    | set(KINDS)
    | set(NUMBERS)
    | set(TONE_OF_WORD)
    | set(PLACES)
    | set(_LINKS)
    | _words_of(*(text for texts in OPENERS.values() for text in texts))
    | _words_of(*LEADS, *FILLERS, *MISPLACED.values())
    | _words_of(*(text for texts in CLOSINGS.values() for text in texts))
)
