"""The MONAI Label client, in place of the one that plugins carry: same names, arguments and return values.

::

    from delineate.monai_label import MONAILabelClient, MONAILabelClientException

It works with every MONAI Label server, not with ours alone. Python 3.9 and newer; no torch.
"""

from __future__ import annotations

from delineate.client.monai_label import MONAILabelClient
from delineate.client.monai_label_aio import AsyncMONAILabelClient
from delineate.client.monai_label_http import MONAILabelUtils
from delineate.protocols.monai_label_failures import MONAILabelClientException, MONAILabelError

__all__ = ["AsyncMONAILabelClient", "MONAILabelClient", "MONAILabelClientException", "MONAILabelError", "MONAILabelUtils"]
