"""Teacher rules, one a file: how the snapshot video encoder follows the video encoder. All are `Teacher`s."""
from parse_config import Registry

TEACHERS = Registry("teacher", __name__)
