"""The visual fact, which all rooms share: forms, sentences, and when two are the same. Notebooks 02 and 03."""

import lazy_loader

PUBLIC = {
    "forms": ["Call", "FactError", "Term", "parse"],
    "sentences": ["from_sentence", "to_sentence"],
    "reading": ["read_statement"],
    "visual_facts": ["contradicts", "key", "Fact", "kind", "same", "subject"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=PUBLIC)
