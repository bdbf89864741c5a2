"""The lowest versions of required packages that the installed gvae admits, as constraints for pip."""

import importlib.metadata
import re

for requirement in importlib.metadata.requires("gvae"):
    if "extra ==" not in requirement:
        name, version = re.match(r"([\w-]+).*>=([\d.]+)", requirement).groups()
        print(f"{name}=={version if '.' in version else version + '.0'}.*")
