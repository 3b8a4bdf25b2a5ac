import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `line_world.py`, a world with ends and its models
