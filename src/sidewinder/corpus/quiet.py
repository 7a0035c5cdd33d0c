"""Silences datatrove's log in every process that imports a step of ours; a progress line stands there instead.

datatrove resets its log handlers at the start and end of each task, so only its module's name can be switched off.
"""

from loguru import logger

logger.disable("datatrove")
