"""`python -m moga.kernels`: what this machine has, and what `auto` picks."""

from .choose import report

if __name__ == "__main__":
    print(report())
