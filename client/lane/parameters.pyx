"""A statement and its parameters as they travel: what `client.values.bind` makes, for what is usual.

Usual are a str of ordinary length whose template is known, parameters in a tuple, a list or a dict that fit it, and
values of types that psycopg2 would convert by its own adapters. What these functions do not take they leave to bind,
mistakes included; what they take, they convert to the very same bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8String
from libc.stdint cimport uint8_t, uint32_t

from client.lane.conversions cimport put_value
from client.lane.octets cimport Octets, begin, drop, put_bytes

cdef extern from *:
    unsigned long POOLD_SOURCES

SOURCES = POOLD_SOURCES

cdef enum:
    TEMPLATES_KEPT = 1000  # as bind keeps
    LONGEST_KEPT = 8192
    MOST_PARAMETERS = 1000  # of more, bind makes less of a difference

# bind's function: a str's template, or None.
cdef object _split = None
# Templates by statement, for statements with params and without.
cdef dict _templates = {}, _plain_templates = {}


def use(split):
    """Take bind's function that returns a str's template, or None."""
    global _split
    _split = split


def bound(statement, params):
    """Return the statement, types and values, as bind's Bound has them; None if bind has to make them."""
    cdef Template template = template_of(statement, params)
    cdef Octets types, values
    cdef uint8_t types_room[256]
    cdef uint8_t values_room[1024]
    if template is None:
        return None
    begin(&types, types_room, sizeof(types_room))
    begin(&values, values_room, sizeof(values_room))
    try:
        if not put_parameters(template, params, &types, &values):
            return None
        return (
            template.joined,
            PyBytes_FromStringAndSize(<char *>types.data, types.size),
            PyBytes_FromStringAndSize(<char *>values.data, values.size),
        )
    finally:
        drop(&types)
        drop(&values)


cdef class Template:
    """A statement cut at its placeholders, which NUL stands for in joined.

    packed is joined as msgpack's bytes, names the placeholders' names if they have some, count how many there are.
    columns are those of its last result, which the next one most often has too.
    """


cdef Template template_of(object statement, object params):
    """Return the statement's template, None if it is not usual."""
    cdef dict known = _plain_templates if params is None else _templates
    cdef PyObject *found
    if type(statement) is not str:
        return None
    found = PyDict_GetItemWithError(known, statement)
    if found != NULL:
        return <Template>found
    made = _plain(statement) if params is None else _cut(statement)
    if made is not None:
        if len(known) >= TEMPLATES_KEPT:
            known.clear()
        known[statement] = made
    return made


cdef Template _plain(str statement):
    """Return the template of a statement that is sent as it is."""
    if not 0 < len(statement) <= LONGEST_KEPT:
        return None
    try:
        text = PyUnicode_AsUTF8String(statement)
    except UnicodeEncodeError:
        return None
    return None if b"\0" in text else _made(text, None, 0)


cdef Template _cut(str statement):
    """Return the template of a statement in which '%' is special."""
    if len(statement) > LONGEST_KEPT:
        return None
    found = _split(statement)
    if found is None or len(found.pieces) > MOST_PARAMETERS:
        return None
    return _made(found.joined, None if found.names is None else tuple(found.names), len(found.pieces) - 1)


cdef Template _made(bytes joined, tuple names, Py_ssize_t count):
    cdef Template made = Template()
    cdef Octets packed
    begin(&packed, NULL, 0)
    try:
        put_bytes(&packed, PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined))
        made.packed = PyBytes_FromStringAndSize(<char *>packed.data, packed.size)
    finally:
        drop(&packed)
    made.joined, made.names, made.count = joined, names, count
    return made


cdef bint put_parameters(Template template, object params, Octets *types, Octets *values) except -1:
    """Put the types and values of the parameters; false if bind has to do it. Python code may run in here."""
    cdef Py_ssize_t place
    cdef uint32_t checked = 0
    cdef PyObject *found
    if template.count == 0:
        return True  # psycopg2 does not even look at params
    if template.names is not None:
        if type(params) is not dict:
            return False
        for place in range(template.count):
            found = PyDict_GetItemWithError(params, template.names[place])
            if found == NULL or not put_value(<object>found, types, values, &checked):
                return False
        return True
    if type(params) is tuple:
        if len(<tuple>params) != template.count:
            return False
        for place in range(template.count):
            if not put_value((<tuple>params)[place], types, values, &checked):
                return False
        return True
    if type(params) is not list:
        return False
    for place in range(template.count):
        # Its length is looked at each time: code of a value's type may change the list.
        if len(<list>params) != template.count or not put_value((<list>params)[place], types, values, &checked):
            return False
    return True
