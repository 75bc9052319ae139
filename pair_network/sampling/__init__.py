"""Pictures with a style: style guidance, inside diffusers' pipelines and on the command line."""
