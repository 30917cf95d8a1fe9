"""`python -m indattn`, and with torchrun `torchrun --nproc-per-node 2 -m indattn train ...`."""

from indattn.cli import main

if __name__ == "__main__":
    main()
