"""A tokenizer of subwords trained on a world's captions: no word is unknown to it, however it is spelt."""

from collections.abc import Iterable

from causvid.models.tokenizer import END, PAD, Tokenizer

VOCABULARY = 1200
"""Tokens at most: the bytes, the special tokens, and pieces of words in order of how often the captions join them."""
RARE = 8
"""A piece must be this frequent, so that words of the captions are whole and slips of the pen are not."""


def train_subword_tokenizer(captions: Iterable[str], *, size: int = VOCABULARY) -> Tokenizer:
    """Make a byte-pair tokenizer of at most `size` tokens from `captions`.

    Text is lowercased, split at white space and punctuation, and punctuation is dropped, as `train_tokenizer` does; a
    word is then cut into the largest pieces that the captions taught, single bytes at worst. `</s>` closes a prompt.

    Source: byte-level BPE, Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).

    Raises:
        ValueError: if the captions hold no word, or `size` has no room for pieces.
    """
    from tokenizers import Tokenizer as Rules
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    specials, alphabet = [PAD, END], pre_tokenizers.ByteLevel.alphabet()
    if size <= len(specials) + len(alphabet):
        raise ValueError(f"size={size} has no room for pieces, expected more than {len(specials) + len(alphabet)}")
    tokenizer = Rules(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(behavior="removed"),
            # Every word begins with the mark of a space, so that it is the same token wherever it stands.
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=RARE,
        special_tokens=specials,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    if tokenizer.get_vocab_size() == len(specials) + len(alphabet):
        raise ValueError(f"captions hold no word that occurs {RARE} times to train a tokenizer on")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, specials.index(END))]
    )
    return Tokenizer(tokenizer, pad=PAD, end=END)
