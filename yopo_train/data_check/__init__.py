"""What a configuration's data holds, and what training on it will need: the command ``data check``."""

from yopo_train.data_check.command import check_data

__all__ = ["check_data"]
