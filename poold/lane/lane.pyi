SOURCES: int

class Lane:
    def wait(self, epoll: int) -> list[tuple[int, int]]: ...
