"""The statements of a transaction block, collected: what `client.transaction` and `codec.split_steps` do.

Programs have few kinds of transactions and run them often. So the steps of a message, which hold all of it but the
values, are found rather than packed: each statement leads from a node to the next one, and the node where the block
ends knows the packed steps.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from client.lane.octets cimport Octets, begin, drop, put, put_array_head, put_bytes
from client.lane.parameters cimport Template, put_parameters, template_of
from client.lane.records cimport PendingFields, poold_new

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES

cdef enum:
    NODES_KEPT = 4096
    MOST_STATEMENTS = 64  # of longer blocks each is likely to be the only one of its kind

# The class of results that are not known yet: client.pending's.
cdef object _pending_class = None
# Where blocks begin, by whether their statements may be prepared; and how many nodes follow from there.
cdef dict _roots = {}
cdef int _nodes = 0


def use(pending_class):
    """Take the class of results that are not known yet."""
    global _pending_class
    if not issubclass(pending_class, PendingFields):
        raise TypeError(f"{pending_class!r} has not the fields of a pending result")
    _pending_class = pending_class


cdef class Node:
    """A block of statements, as far as it has come.

    before is the block without its last statement, templates all its statements, types the types of the last one's
    parameters. children are the blocks with one statement more: by template, a list of them by types. packed are its
    steps as they travel, once a block has ended here.
    """


cdef class Collector:
    """Collects the statements of one block, and sends them.

    lane, calls and form are what Lane.transaction wants. ends are the bytes in values where those of each statement end.
    dicts says whether the rows of the results are dicts.
    """

    def __cinit__(self):
        begin(&self.values, self._room, sizeof(self._room))

    def __init__(self, lane, calls, tuple form not None, bint is_prepared, bint dicts):
        self.begin(lane, calls, form, is_prepared, dicts)

    cdef begin(self, lane, calls, tuple form, bint is_prepared, bint dicts):
        self._lane, self._calls, self._form = lane, calls, form
        self._is_prepared, self._dicts = is_prepared, dicts
        self.node = _root(is_prepared)
        self.pending, self.ends = [], []

    def __dealloc__(self):
        drop(&self.values)

    cdef add(self, statement, params):
        """Add a statement and return its pending result; None if it is not usual, and nothing was added."""
        cdef Template template = template_of(statement, params)
        cdef Py_ssize_t before = self.values.size
        cdef PendingFields pending
        cdef Octets types, values
        cdef uint8_t types_room[256]
        cdef uint8_t values_room[1024]
        if template is None or len(self.pending) >= MOST_STATEMENTS:
            return None
        begin(&types, types_room, sizeof(types_room))
        begin(&values, values_room, sizeof(values_room))
        try:
            if not put_parameters(template, params, &types, &values):
                return None
            node = _next(self.node, template, &types)
            put_bytes(&self.values, values.data, values.size)
        finally:
            drop(&types)
            drop(&values)
        pending = <PendingFields>poold_new(_pending_class, ())
        pending._dicts = self._dicts
        self.ends.append(self.values.size)
        self.pending.append(pending)
        self.node = node
        return pending

    cdef send(self):
        """Send the block; see Lane.transaction."""
        return self._lane.transaction(self._calls, self, self._form)

    def contents(self):
        """Return the statements, each as its text, types, values and pending result."""
        cdef list found = []
        cdef Node node = self.node
        cdef Py_ssize_t place, start
        for place in reversed(range(len(self.pending))):
            start = self.ends[place - 1] if place else 0
            values = _unpacked(self.values.data + start, <Py_ssize_t>self.ends[place] - start)
            found.append(((<Template>node.templates[place]).joined, node.types, values, self.pending[place]))
            node = node.before
        found.reverse()
        return found

    def split(self):
        """Return the fields steps and values of a transaction message as they travel, values without its head."""
        return self.packed_steps(), PyBytes_FromStringAndSize(<char *>self.values.data, self.values.size)

    cdef bytes packed_steps(self):
        if self.node.packed is None:
            self.node.packed = _packed(self.node, self._is_prepared)
        return self.node.packed


cdef Node _root(bint is_prepared):
    global _nodes
    cdef Node made
    if _nodes >= NODES_KEPT:
        _roots.clear()  # blocks that are under way keep theirs
        _nodes = 0
    found = _roots.get(is_prepared)
    if found is None:
        made = Node()
        made.children, made.templates = {}, ()
        found = _roots[is_prepared] = made
    return found


cdef Node _next(Node node, Template template, Octets *types):
    """Return the node that this statement leads to."""
    global _nodes
    cdef Node made
    cdef bytes known
    cdef PyObject *found = PyDict_GetItemWithError(node.children, template)
    if found != NULL:
        for each in <list>found:
            known = (<Node>each).types
            if PyBytes_GET_SIZE(known) == types.size:
                if memcmp(PyBytes_AS_STRING(known), types.data, types.size) == 0:
                    return <Node>each
    made = Node()
    made.children, made.before, made.templates = {}, node, node.templates + (template,)
    made.types = PyBytes_FromStringAndSize(<char *>types.data, types.size)
    node.children.setdefault(template, []).append(made)
    _nodes += 1
    return made


cdef bytes _packed(Node node, bint is_prepared):
    """Return the steps of this block: each its statement, types and whether it may be prepared, without references and
    limits of rows."""
    cdef list nodes = []
    cdef Octets packed
    cdef Template template
    cdef Node each
    while node.before is not None:
        nodes.append(node)
        node = node.before
    nodes.reverse()
    begin(&packed, NULL, 0)
    try:
        put_array_head(&packed, len(nodes))
        for each in nodes:
            template = each.templates[len(each.templates) - 1]
            put(&packed, b"\x96", 1)
            put(&packed, PyBytes_AS_STRING(template.packed), PyBytes_GET_SIZE(template.packed))
            put_bytes(&packed, PyBytes_AS_STRING(each.types), PyBytes_GET_SIZE(each.types))
            put(&packed, b"\xc3\x90\x00\xc0" if is_prepared else b"\xc2\x90\x00\xc0", 4)
        return PyBytes_FromStringAndSize(<char *>packed.data, packed.size)
    finally:
        drop(&packed)


cdef bytes _unpacked(const uint8_t *packed, Py_ssize_t size):
    """Return what msgpack's bytes hold."""
    cdef Py_ssize_t head = 2 if packed[0] == 0xC4 else 3 if packed[0] == 0xC5 else 5
    return PyBytes_FromStringAndSize(<const char *>packed + head, size - head)
