"""Imports every module of the generated client."""

import importlib
import pkgutil

import hsm_gateway_client

for module in pkgutil.walk_packages(hsm_gateway_client.__path__, "hsm_gateway_client."):
    importlib.import_module(module.name)
