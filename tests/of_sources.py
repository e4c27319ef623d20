"""A task of sources and targets as small as can be: every token of a source, each the next one of an alphabet."""

import torch

from shoal.parts import Counts, Sizes, Task, TaskSettings, setting, token_losses

PAD, BOS, EOS = 0, 1, 2


class Next(TaskSettings):
    """Sources of 1 to 4 letters and EOS; in the target stands for each the letter that follows it, then EOS."""

    offers = ("pair", "source")
    usual_model = "encoder_decoder"
    letters: int = setting(5, "different letters", "an integer of at least 2", ge=2)
    examples: int = setting(40, "sources", "an integer of at least 2", ge=2)

    def sizes(self):
        return Sizes(3 + self.letters, 5, PAD, 3 + self.letters, 5)

    def counts(self):
        return Counts(self.examples // 2, self.examples, 20 * self.examples)

    def build_for(self, reads, split_seed):
        generator = torch.Generator().manual_seed(split_seed)
        lengths = torch.randint(1, 5, (self.examples, 1), generator=generator)
        letters, place = torch.randint(self.letters, (self.examples, 5), generator=generator), torch.arange(5)

        def ended(tokens):
            return torch.where(place < lengths, tokens, torch.where(place == lengths, EOS, PAD))

        answers = ended(3 + (letters + 1) % self.letters)
        begun = torch.cat([torch.full((self.examples, 1), BOS), answers[:, :-1]], dim=1)
        tensors = {"source": ended(3 + letters), "target": begun, "answers": answers}
        order = torch.arange(self.examples)
        half = self.examples // 2
        scored = {"train": order[:half], "valid": order[half:]}
        return Task(tensors, order[:half], scored, lambda model, batch: objective(model, batch, reads))


def objective(model, batch, reads):
    seen, counts = batch["source"] != PAD, batch["answers"] != PAD
    logits, *_ = model(batch["source"], batch["target"], seen) if reads == "pair" else model(batch["source"], seen)
    losses = torch.where(counts, token_losses(logits, batch["answers"]), 0.0)
    right = (logits.argmax(-1) == batch["answers"]) | ~counts
    return {"loss": losses.sum(-1) / counts.sum(-1), "accuracy": right.all(-1).float()}
