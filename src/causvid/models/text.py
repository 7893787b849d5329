"""Text encoders: UMT5 of any size through transformers, and word tokenizers trained on a world's captions.

Legend: B batch, M tokens (always the encoder's `max_tokens`), D width of the embedding.

The smallest model and umT5-xxl share this code: both are a `UMT5EncoderModel` and a fast tokenizer in two folders.
"""

import html
from collections.abc import Callable, Iterable, Sequence
from textwrap import shorten

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel
from transformers.modeling_outputs import BaseModelOutput

from causvid.config import TextConfig
from causvid.seeding import lend_seed

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
WAN_TOKENS = 512
"""Length of a prompt of Wan's, for tokenizers that name none."""


def train_tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer whose vocabulary is every word of `captions`; ids are in order of falling frequency.

    Text is lowercased, split at white space and punctuation, punctuation is dropped, and `</s>` closes it. Words that
    are not in the vocabulary become `<unk>`.

    Raises:
        ValueError: if the captions hold no word.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
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
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)


def umt5_config(config: TextConfig, *, vocabulary: int) -> UMT5Config:
    """Return the sizes of an encoder as transformers has them."""
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=config.dim,
        d_kv=config.head_dim,
        d_ff=config.ffn_dim,
        num_layers=config.layers,
        num_heads=config.heads,
        dropout_rate=0.0,
    )


def clean_prompt(prompt: str) -> str:
    """Repair wrongly decoded characters, resolve HTML entities and join white space, as Wan does before tokenising."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


class EncoderOnDemand(nn.Module):
    """An encoder that is read for every call and dropped after it, so that its weights take no memory in between."""

    def __init__(self, read: Callable[[], UMT5EncoderModel], config: UMT5Config, *, device: torch.device) -> None:
        super().__init__()
        self.read, self.config, self.device = read, config, device

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """Apply the encoder to ids and mask, int64 `[B, M]`, without gradients."""
        output: BaseModelOutput = self.read()(input_ids=input_ids, attention_mask=attention_mask)
        return output


class TextEncoder(nn.Module):
    """Turn prompts into embeddings `[B, M, D]`. The embedding of "" is the null text.

    The encoder may be on another device than the rest of a model: ids go there, and `embed` brings the result back.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder: UMT5EncoderModel | EncoderOnDemand,
        *,
        max_tokens: int,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.max_tokens = tokenizer, encoder, max_tokens
        tokenizer.model_max_length = max_tokens

    @classmethod
    def create(
        cls, config: TextConfig, tokenizer: PreTrainedTokenizerBase, *, generator: torch.Generator
    ) -> "TextEncoder":
        """Make an untrained encoder for a tokenizer's vocabulary, initialised as transformers does.

        The embedding of `<unk>` starts at zero and, since training captions hold no unknown word, stays there: such a
        word is a blank rather than a random one.
        """
        settings = umt5_config(config, vocabulary=len(tokenizer))
        settings.pad_token_id, settings.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
        with lend_seed(generator):
            encoder = UMT5EncoderModel(settings)
        if tokenizer.unk_token_id is not None:
            with torch.no_grad():
                encoder.get_input_embeddings().weight[tokenizer.unk_token_id].zero_()
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
        cleaned = [clean_prompt(prompt) for prompt in prompts]
        coded = self.tokenizer(
            cleaned, padding="max_length", max_length=self.max_tokens, truncation=False, verbose=False
        )
        for prompt, row in zip(prompts, coded["input_ids"], strict=True):
            if len(row) > self.max_tokens:
                raise ValueError(
                    f"prompt={shorten(prompt, 40)!r} has {len(row)} tokens, at most {self.max_tokens} fit "
                    "(the end mark is one)"
                )
        return torch.tensor(coded["input_ids"]), torch.tensor(coded["attention_mask"], dtype=torch.bool)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed tokenised prompts: int64 `[B, M]` and bool `[B, M]` -> `[B, M, D]`, zero where `mask` is False."""
        hidden: Tensor = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
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
        if self.tokenizer.unk_token_id is None:
            return []
        prompt = clean_prompt(prompt)
        coded = self.tokenizer(prompt, return_offsets_mapping=True, truncation=False, verbose=False)
        pairs = zip(coded["input_ids"], coded["offset_mapping"], strict=True)
        words = [prompt[a:b] for token, (a, b) in pairs if token == self.tokenizer.unk_token_id]
        first = {word.casefold(): word for word in reversed(words)}
        return [word for word in dict.fromkeys(words) if first[word.casefold()] == word]
