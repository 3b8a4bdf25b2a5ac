import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `regression.py`, the learner of these tests
