"""Style guidance for web UIs, as far as no UI is needed: files, layer names, hooks, the formula, settings.

Imports torch and safetensors alone: the folder is dropped into a UI whose Python has nothing else of Pair Network.
"""
