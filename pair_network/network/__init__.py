"""The coupled network: its settings, its layers and the files it is kept in. Needs torch and safetensors alone."""
