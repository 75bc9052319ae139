"""Says which process of how many runs (PAIR_PATCH)."""


def patch(host):
    prepare = host.NetworkTrainer.prepare_unet_with_accelerator

    def prepare_and_say(self, args, accelerator, unet):
        print(f"process {accelerator.process_index} of {accelerator.num_processes}", flush=True)
        return prepare(self, args, accelerator, unet)

    host.NetworkTrainer.prepare_unet_with_accelerator = prepare_and_say
