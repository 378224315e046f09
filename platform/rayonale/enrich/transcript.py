"""Conversations as the plain text that prompt templates show."""

from __future__ import annotations

from rayonale.records import Message


def prompt_text(messages: list[Message]) -> str:
    """A prompt as text: the content alone of one user turn, else one labelled turn a line.

    Example::

        [user "Name two birds."]                      → "Name two birds."
        [user "Hi", assistant "Hello", user "Bye"]    → "User: Hi\\nAssistant: Hello\\nUser: Bye"
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"].strip()
    return "\n".join(f"{m['role'].capitalize()}: {m['content'].strip()}" for m in messages)


def response_text(messages: list[Message]) -> str:
    """A response as text: its assistant turns' contents, a blank line between several."""
    return "\n\n".join(m["content"].strip() for m in messages)
