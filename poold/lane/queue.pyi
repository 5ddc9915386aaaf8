from poold.core.shared import queue

SOURCES: int

class Queue(queue.Queue): ...
