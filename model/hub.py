"""Model hubs: whether they can be reached, and the one line for a user when a model is neither there nor here."""

import functools
import urllib.error
import urllib.request

from huggingface_hub import constants

from parse_config import ConfigError


@functools.lru_cache(maxsize=1)
def reachable(seconds: float = 5.0) -> bool:
    """Whether the Hugging Face hub answers; asked once, and within seconds, because the libraries retry for a minute.

    Where it is False, only what was downloaded before (the cache) or lies in a folder can be used.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(
            urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=seconds
        ).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def absent(where: str, name: str, repository: str, remedy: str) -> ConfigError:
    """The error for a model that can be had neither from the hub, nor from its cache, nor from a path.

    `where`: the setting's JSON path; `repository`: on the hub; `remedy`: what to do with the folder once it is here.
    """
    hub = (
        f"the hub ({constants.ENDPOINT}) does not have it"
        if reachable()
        else f"the hub ({constants.ENDPOINT}) cannot be reached and {constants.HF_HUB_CACHE} does not hold it"
    )
    return ConfigError(
        f"{where}: {name!r} is no local path and {hub}; where there is a network, run "
        f"'hf download {repository} --local-dir {repository.split('/')[-1]}', copy that folder here "
        f"and {remedy}"
    )
