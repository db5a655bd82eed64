"""What a run writes about itself while it trains."""

from mumtrain.runlog.log import RunLog

__all__ = ["RunLog"]
