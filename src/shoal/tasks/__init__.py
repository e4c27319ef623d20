"""What is learned: data, vocabulary, splits, and which positions are scored."""

from shoal.tasks.arithmetic import get_arithmetic_dataset
from shoal.tasks.base import Task
from shoal.tasks.tokenizer import Tokenizer

__all__ = ["Task", "Tokenizer", "get_arithmetic_dataset"]
