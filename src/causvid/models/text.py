"""Text encoders: UMT5 of any size, and word tokenizers trained on a world's captions.

Legend: B batch, M tokens (always the encoder's `max_tokens`), D width of the embedding.

The smallest model and umT5-xxl share this code: both are an encoder and a tokenizer in two folders.
"""

import html
from collections.abc import Callable, Iterable, Sequence
from textwrap import shorten

import torch
from torch import Tensor, nn

from causvid.config import TextConfig
from causvid.models.tokenizer import END, PAD, UNKNOWN, Tokenizer
from causvid.models.umt5 import UMT5Config, UMT5Encoder
from causvid.seeding import without_contents

WAN_TOKENS = 512
"""Length of a prompt of Wan's, for tokenizers that name none."""


def train_tokenizer(captions: Iterable[str]) -> Tokenizer:
    """Make a tokenizer whose vocabulary is every word of `captions`; ids are in order of falling frequency.

    Text is lowercased, split at white space and punctuation, punctuation is dropped, and `</s>` closes it. Words that
    are not in the vocabulary become `<unk>`.

    Raises:
        ValueError: if the captions hold no word.
    """
    from tokenizers import Tokenizer as Rules
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Rules(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="removed")]
    )
    specials = [PAD, END, UNKNOWN]
    tokenizer.train_from_iterator(captions, trainers.WordLevelTrainer(special_tokens=specials, show_progress=False))
    if tokenizer.get_vocab_size() == len(specials):
        raise ValueError("captions hold no word to train a tokenizer on")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, specials.index(END))]
    )
    return Tokenizer(tokenizer, pad=PAD, end=END, unknown=UNKNOWN)


def umt5_config(config: TextConfig, *, vocabulary: int) -> UMT5Config:
    """Return the sizes of an encoder as its `config.json` has them."""
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=config.dim,
        d_kv=config.head_dim,
        d_ff=config.ffn_dim,
        num_layers=config.layers,
        num_heads=config.heads,
    )


def clean_prompt(prompt: str) -> str:
    """Repair wrongly decoded characters, resolve HTML entities and join white space, as Wan does before tokenising."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


class EncoderOnDemand(nn.Module):
    """An encoder that is read for every call and dropped after it, so that its weights take no memory in between."""

    def __init__(self, read: Callable[[], UMT5Encoder], config: UMT5Config, *, device: torch.device) -> None:
        super().__init__()
        self.read, self.config, self.device = read, config, device

    @torch.no_grad()
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Apply the encoder to ids, int64 `[B, M]`, and mask, bool `[B, M]`, without gradients."""
        hidden: Tensor = self.read()(ids, mask)
        return hidden


class TextEncoder(nn.Module):
    """Turn prompts into embeddings `[B, M, D]`. The embedding of "" is the null text.

    The encoder may be on another device than the rest of a model: ids go there, and `embed` brings the result back.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: UMT5Encoder | EncoderOnDemand, *, max_tokens: int) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.max_tokens = tokenizer, encoder, max_tokens

    @classmethod
    def create(cls, config: TextConfig, tokenizer: Tokenizer, *, generator: torch.Generator) -> "TextEncoder":
        """Make an untrained encoder for a tokenizer's vocabulary.

        The embedding of `<unk>` starts at zero and, since training captions hold no unknown word, stays there: such a
        word is a blank rather than a random one.
        """
        with without_contents():
            encoder = UMT5Encoder(umt5_config(config, vocabulary=len(tokenizer)))
        encoder.to_empty(device="cpu").initialise(generator)
        unknown = tokenizer.id(tokenizer.unknown)
        if unknown is not None:
            with torch.no_grad():
                encoder.shared.weight[unknown].zero_()
        return cls(tokenizer, encoder, max_tokens=config.max_tokens)

    @property
    def dim(self) -> int:
        """Return D."""
        return int(self.encoder.config.d_model)

    def tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids, int64 `[B, M]`, and the mask of real tokens, bool `[B, M]`, of cleaned `prompts`, on the CPU.

        Raises:
            ValueError: if a prompt has more tokens than `max_tokens`.
        """
        pad = self.tokenizer.id(self.tokenizer.pad)
        assert pad is not None
        ids = torch.full((len(prompts), self.max_tokens), pad)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        coded = self.tokenizer([clean_prompt(prompt) for prompt in prompts])
        for row, (prompt, (own, _)) in enumerate(zip(prompts, coded, strict=True)):
            count = len(own)
            if count > self.max_tokens:
                raise ValueError(
                    f"prompt={shorten(prompt, 40)!r} has {count} tokens, at most {self.max_tokens} fit "
                    "(the end mark is one)"
                )
            largest, known = max((*own, pad)), self.encoder.config.vocab_size
            if largest >= known:
                raise ValueError(f"the tokenizer gives token {largest}, but the text encoder has {known}")
            place = slice(self.max_tokens - count, None) if self.tokenizer.pads_left else slice(count)
            ids[row, place], mask[row, place] = torch.tensor(own, dtype=torch.int64), True
        return ids, mask

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed tokenised prompts: int64 `[B, M]` and bool `[B, M]` -> `[B, M, D]`, zero where `mask` is False."""
        hidden: Tensor = self.encoder(ids, mask)
        return hidden * mask[..., None]

    def embed(self, prompts: Sequence[str], device: torch.device | str | None = None) -> Tensor:
        """Embed `prompts` as `[B, M, D]`, rows beyond a prompt's end being zero; the result moves to `device`.

        Raises:
            ValueError: if a prompt has more tokens than `max_tokens`.
        """
        ids, mask = self.tokens(prompts)
        here = self.encoder.device
        hidden: Tensor = self(ids.to(here), mask.to(here))
        return hidden if device is None else hidden.to(device)

    def unknown_words(self, prompt: str) -> list[str]:
        """List the words of `prompt` that the vocabulary lacks, as they are written, in order and once each."""
        unknown = self.tokenizer.id(self.tokenizer.unknown)
        if unknown is None:
            return []
        prompt = clean_prompt(prompt)
        (coded,) = self.tokenizer([prompt])
        words = [prompt[a:b] for token, (a, b) in zip(*coded, strict=True) if token == unknown]
        first = {word.casefold(): word for word in reversed(words)}
        return [word for word in dict.fromkeys(words) if first[word.casefold()] == word]
