"""The command line for making pictures; ``pair_network.pipelines`` does the work."""
