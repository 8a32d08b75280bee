"""Hand-made bad files: each a name and a function that makes it in a folder."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict

import numpy as np
import torch
from safetensors.torch import save_file

FILES = {}
REASONS = {}


def bad(reason):
    """Put a maker into the corpus, with words of the sentence that refuses its file.

    A maker returns bytes to write, or writes the path itself.
    """

    def put(make):
        FILES[make.__name__] = make
        REASONS[make.__name__] = reason
        return make

    return put


def save(kind, tensors, path):
    """Write a good file of a format: safetensors, npz, or PyTorch's own."""
    if kind == "safetensors":
        save_file(tensors, path)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **{name: t.numpy() for name, t in tensors.items()})
    else:
        torch.save(tensors, path)


def header(entries, data=b"", length=None, raw=None):
    """Build a safetensors file with any header."""
    text = raw if raw is not None else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def npy(shape="(2, 2)", descr="'<f4'", data=bytes(16), order="False", magic=b"\x93NUMPY\x01\x00"):
    """Build an .npy array with any header."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return magic + struct.pack("<H", len(text)) + text + data


def archive(entries, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in entries:
            file.writestr(name, content)
    return buffer.getvalue()


def saved(thing, **options):
    buffer = io.BytesIO()
    torch.save(thing, buffer, **options)
    return buffer.getvalue()


def with_pickle(content, storages=((b"\0" * 16),)):
    """Build a file of torch.save with any pickle in it."""
    data = [(f"a/data/{place}", one) for place, one in enumerate(storages)]
    return archive(
        [("a/data.pkl", content), ("a/byteorder", b"little"), *data, ("a/version", b"3")]
    )


class Calls:
    """Pickles as a call, the way hostile pickles do."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def forged(thing, old, new):
    """Patch the pickle of a saved thing."""
    with zipfile.ZipFile(io.BytesIO(saved(thing))) as file:
        parts = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
    assert old in parts["data.pkl"]
    parts["data.pkl"] = parts["data.pkl"].replace(old, new)
    return archive([(f"a/{name}", content) for name, content in parts.items()])


def patched(content, entry, offset, value):
    """Overwrite a field of an entry in a zip directory."""
    place = content.index(b"PK\x01\x02")
    for _ in range(entry):
        place = content.index(b"PK\x01\x02", place + 1)
    return content[: place + offset] + value + content[place + offset + len(value) :]


# --- no file at all -------------------------------------------------------------------------------


@bad("a folder")
def folder(path):
    path.mkdir()


@bad("a pipe")
def pipe(path):
    os.mkfifo(path)


@bad("levels of symbolic")
def symlink_loop(path):
    path.symlink_to(path)


@bad("No such file")
def dangling_symlink(path):
    path.symlink_to(path.with_name("nowhere"))


@bad("a device")
def endless_device(path):
    path.symlink_to("/dev/zero")


@bad("is empty")
def empty(path):
    return b""


@bad("no whole")
def one_byte(path):
    return b"P"


@bad("no whole")
def plain_text(path):
    return b"weights, as promised\n" * 40


@bad("never unpickled")
def bare_pickle(path):
    return pickle.dumps({"fc.weight": [1.0]})


@bad("never unpickled")
def hostile_bare_pickle(path):
    return pickle.dumps(Calls(os.system, f"touch {path}.ran"))


# --- safetensors ----------------------------------------------------------------------------------


@bad("no whole")
def header_longer_than_file(path):
    return header({}, length=10**6)


@bad("no whole")
def header_length_overflows(path):
    return header({}, length=2**64 - 1)


@bad("has a header of")
def huge_header(path):
    return header(None, raw=b'{"a":"' + b"x" * (3 * 2**20) + b'"}')


@bad("is no safetensors")
def header_no_json(path):
    return header(None, raw=b"{weights}")


@bad("no JSON object")
def header_no_object(path):
    return header(["fc.weight"])


@bad("is no safetensors")
def header_nested(path):
    return header(None, raw=b"[" * 10**5)


@bad("is no safetensors")
def header_huge_number(path):
    return header(None, raw=b'{"a":' + b"9" * 10**5 + b"}")


@bad("is no safetensors")
def header_not_unicode(path):
    return header(None, raw=b'{"\xff\xfe": 1}')


@bad("holds no tensors")
def no_tensors(path):
    return header({})


@bad("names 'w' twice")
def repeated_name(path):
    one = json.dumps(tensor([1], [0, 4]))
    return header(None, raw=f'{{"w": {one}, "w": {one}}}'.encode(), data=bytes(4))


@bad("absurd name")
def absurd_name(path):
    return header({"x" * 10**4: tensor([1], [0, 4])}, bytes(4))


@bad("absurd name")
def control_characters(path):
    return header({"fc\n\x1b[2J.weight": tensor([1], [0, 4])}, bytes(4))


@bad("invalid shape")
def shape_lies(path):
    return header({"w": tensor([1000, 1000], [0, 4])}, bytes(4))


@bad("overflow")
def shape_overflows(path):
    return header({"w": tensor([2**33, 2**33], [0, 4])}, bytes(4))


@bad("an impossible shape")
def shape_negative(path):
    return header({"w": tensor([-1, 4], [0, 4])}, bytes(4))


@bad("an impossible shape")
def shape_of_many_sides(path):
    return header({"w": tensor([1] * 1000, [0, 4])}, bytes(4))


@bad("an impossible shape")
def shape_nested(path):
    return header(None, raw=b'{"w":{"dtype":"F32","shape":[' + b"[" * 900 + b"]" * 900 + b"]}}")


@bad("not described")
def shape_no_list(path):
    return header({"w": tensor("all", [0, 4])}, bytes(4))


@bad("invalid offset")
def offsets_overlap(path):
    return header({"v": tensor([2], [0, 8]), "w": tensor([2], [4, 12])}, bytes(12))


@bad("invalid offset")
def offsets_backwards(path):
    return header({"w": tensor([1], [4, 0])}, bytes(4))


@bad("invalid offset")
def offsets_with_gap(path):
    return header({"w": tensor([1], [8, 12])}, bytes(12))


@bad("incomplete metadata")
def data_cut_short(path):
    return header({"w": tensor([4], [0, 16])}, bytes(15))


@bad("incomplete metadata")
def data_left_over(path):
    return header({"w": tensor([1], [0, 4])}, bytes(40))


@bad("complex numbers")
def complex_numbers(path):
    return header({"w": tensor([1], [0, 8], "C64")}, bytes(8))


@bad("F8_E4M3")
def eight_bit_floats(path):
    return header({"w": tensor([4], [0, 4], "F8_E4M3")}, bytes(4))


@bad("F4000")
def unknown_numbers(path):
    return header({"w": tensor([4], [0, 4], "F4000")}, bytes(4))


@bad("NaN or infinite")
def nan_numbers(path):
    data = np.array([[0, np.nan], [1, 2]], dtype="<f4").tobytes()
    return header({"fc.weight": tensor([2, 2], [0, 16])}, data)


@bad("NaN or infinite")
def infinite_numbers(path):
    data = np.array([[0, 1], [-np.inf, 2]], dtype="<f4").tobytes()
    return header({"fc.weight": tensor([2, 2], [0, 16])}, data)


# --- npz ------------------------------------------------------------------------------------------


@bad("not a whole zip")
def npz_cut_short(path):
    return archive([("w.npy", npy())])[:-30]


@bad("nothing in it")
def npz_nothing_in_it(path):
    content = b"PK\x03\x04" + archive([])
    return content[:-6] + struct.pack("<I", 4) + content[-2:]


@bad("Python objects")
def npz_objects(path):
    array = np.array([Calls(os.system, f"touch {path}.ran")], dtype=object)
    buffer = io.BytesIO()
    np.savez(buffer, w=array)
    return buffer.getvalue()


@bad("no .npy array")
def npz_no_array(path):
    return archive([("readme.txt", b"hello")])


@bad("absurd name")
def npz_escaping_name(path):
    return archive([("../../\nescape.npy", npy())])


@bad("declares shape")
def npz_shape_lies(path):
    return archive([("w.npy", npy("(1000, 1000)"))])


@bad("declares shape")
def npz_shape_overflows(path):
    return archive([("w.npy", npy(f"({2**63}, {2**63})"))])


@bad("impossible shape")
def npz_shape_negative(path):
    return archive([("w.npy", npy("(-2, -2)"))])


@bad("malformed node")
def npz_header_runs_code(path):
    return archive([("w.npy", npy("__import__('os').getcwd()"))])


@bad("format that is not read")
def npz_unknown_format(path):
    return archive([("w.npy", npy(magic=b"\x93NUMPY\x09\x00"))])


@bad("<U2")
def npz_text(path):
    return archive([("w.npy", npy("(2,)", "'<U2'"))])


@bad("not read")
def npz_records(path):
    return archive([("w.npy", npy("(2,)", "[('a', '<f4'), ('b', '<f4')]"))])


@bad("complex numbers")
def npz_complex(path):
    return archive([("w.npy", npy("(2,)", "'<c8'"))])


@bad(">f4")
def npz_foreign_byte_order(path):
    return archive([("w.npy", npy(descr="'>f4'"))])


@bad("NaN or infinite")
def npz_nan(path):
    data = np.array([[0, np.nan], [1, 2]], dtype="<f4").tobytes()
    return archive([("fc.weight.npy", npy(data=data))])


@bad("twice")
def npz_twice(path):
    one = archive([("v.npy", npy()), ("w.npy", npy())])
    return one.replace(b"w.npy", b"v.npy")


@bad("would unpack to")
def npz_bomb(path):
    shape, data = f"({2**25},)", bytes(2**27)
    return archive([("w.npy", npy(shape, data=data))], zipfile.ZIP_DEFLATED)


@bad("declares a size")
def npz_directory_lies_about_size(path):
    return patched(archive([("w.npy", npy())]), 0, 24, struct.pack("<I", 2**31))


@bad("too long a directory")
def npz_directory_too_long(path):
    content = archive([("w.npy", npy())])
    place = content.rindex(b"PK\x05\x06") + 12
    return content[:place] + struct.pack("<I", 2**30) + content[place + 4 :]


@bad("Bad CRC")
def npz_wrong_checksum(path):
    return patched(archive([("w.npy", npy())]), 0, 16, struct.pack("<I", zlib.crc32(b"other")))


@bad("is encrypted")
def npz_encrypted(path):
    return patched(archive([("w.npy", npy())]), 0, 8, struct.pack("<H", 1))


@bad("by a method")
def npz_lzma(path):
    return archive([("w.npy", npy())], zipfile.ZIP_LZMA)


@bad("overlap")
def npz_overlapping(path):
    content = archive([("v.npy", npy(f"({2**12},)", data=bytes(2**14))), ("w.npy", npy())])
    size = struct.unpack_from("<I", content, content.index(b"PK\x01\x02") + 20)[0]
    wide = patched(content, 1, 20, struct.pack("<II", size, size))
    return patched(wide, 1, 42, struct.pack("<I", 0))


# --- PyTorch --------------------------------------------------------------------------------------


@bad("posix.system")
def torch_runs_code(path):
    return saved(Calls(os.system, f"touch {path}.ran"))


@bad("posix.system")
def torch_runs_code_newer_pickle(path):
    return with_pickle(pickle.dumps(Calls(os.system, f"touch {path}.ran"), protocol=4))


@bad("eval")
def torch_evaluates(path):
    return saved({"w": torch.zeros(2), "x": Calls(eval, "1 + 1")})


@bad("bytearray")
def torch_byte_array_bomb(path):
    return with_pickle(pickle.dumps(Calls(bytearray, 2**38), protocol=2))


@bad("linear.Linear")
def torch_whole_model(path):
    return saved(torch.nn.Linear(2, 2))


@bad("_reconstruct")
def torch_numpy(path):
    return saved({"w": np.zeros(3)})


@bad("before 1.6")
def torch_old_format(path):
    return saved({"w": torch.zeros(2)}, _use_new_zipfile_serialization=False)


@bad("is a view")
def torch_expanded_view(path):
    return saved({"fc.weight": torch.zeros(1).expand(10**6, 10**6)})


@bad("sparse")
def torch_sparse(path):
    return saved({"fc.weight": torch.eye(3).to_sparse()})


@bad("complex")
def torch_complex(path):
    return saved({"fc.weight": torch.zeros(3, 2, dtype=torch.complex64)})


@bad("meta tensors")
def torch_meta(path):
    return saved({"fc.weight": torch.zeros(10**5, 10**5, device="meta")})


@bad("a type that is not read")
def torch_eight_bit_floats(path):
    return saved({"fc.weight": torch.zeros(3, 2).to(torch.float8_e5m2)})


@bad("NaN or infinite")
def torch_nan(path):
    return saved({"fc.weight": torch.full((3, 2), torch.nan)})


@bad("NaN or infinite")
def torch_infinite(path):
    return saved({"fc.weight": torch.full((3, 2), torch.inf, dtype=torch.bfloat16)})


@bad("no tensors")
def torch_no_tensors(path):
    return saved(OrderedDict())


@bad("no tensor but int")
def torch_number(path):
    return saved({"fc.weight": torch.zeros(3, 2), "epoch": 7})


@bad("absurd name")
def torch_numbered_names(path):
    return saved({7: torch.zeros(3, 2)})


@bad("not a whole zip")
def torch_cut_short(path):
    return saved({"fc.weight": torch.zeros(300, 2)})[:-400]


@bad("data/0")
def torch_storage_missing(path):
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(2)}))) as file:
        entries = [(n, file.read(n)) for n in file.namelist() if not n.endswith("data/0")]
    return archive(entries)


@bad("resize storage")
def torch_shape_lies(path):
    # 137 and 11 are single-byte numbers in the pickle: K<byte>.
    return forged({"fc.weight": torch.zeros(137, 11)}, b"K\x89K\x0b", b"K\xffK\xff")


@bad("resize storage")
def torch_storage_lies(path):
    big = forged({"fc.weight": torch.zeros(137)}, b"K\x89", b"J\xff\xff\xff\x7f")
    return big


@bad("builds something")
def torch_stray_opcodes(path):
    return with_pickle(b"\x80\x02)))))))R.")


@bad("IndexError")
def torch_pickle_nested(path):
    return with_pickle(b"\x80\x02" + b"(" * 10**5 + b".")


@bad("something else than text")
def torch_tuples_in_tuples(path):
    # Hashing the key would take the interpreter's whole stack.
    return with_pickle(b"\x80\x02})" + b"\x85" * 3 * 10**5 + b"Ns.")


@bad("something else than text")
def torch_tuples_twice_in_tuples(path):
    # Hashing the key would take 2^60 steps.
    return with_pickle(b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"Ns.")


@bad("names a storage")
def torch_tuples_in_storage_name(path):
    text = b"X\x07\x00\x00\x00storage"
    deep = b")" + b"\x85" * 3 * 10**5
    return with_pickle(b"\x80\x02}N(" + text + b"ctorch\nFloatStorage\n" + deep + b"NK\x01tQs.")


@bad("builds something")
def torch_ordered_pairs(path):
    deep = b")" + b"\x85" * 3 * 10**5
    return with_pickle(b"\x80\x02ccollections\nOrderedDict\n]](" + deep + b"Nea\x85R.")


@bad("sets attributes")
def torch_poisons_a_class(path):
    # Would give torch's own FloatStorage an attribute, for all files to come.
    return with_pickle(b"\x80\x02ctorch\nFloatStorage\n}X\x01\x00\x00\x00aNsb.")


@bad("sets 'items' on its state dict")
def torch_hides_a_method(path):
    # Would stand before the method that lists the tensors.
    text = b"X\x05\x00\x00\x00items"
    return with_pickle(b"\x80\x02ccollections\nOrderedDict\n)R}" + text + b"Nsb.")


@bad("sets 'get' on its state dict")
def torch_hides_a_method_inside(path):
    poisoned = OrderedDict(w=torch.zeros(2))
    poisoned.get = 3
    return saved({"state_dict": poisoned})


@bad("twice")
def torch_two_pickles(path):
    # PyTorch's reader does not tell A from a, Python's does.
    bomb = pickle.dumps(Calls(bytearray, 2**38), protocol=2)
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(2)}))) as file:
        entries = [(f"a/{n.partition('/')[2]}", file.read(n)) for n in file.namelist()]
    return archive([("a/DATA.PKL", bomb), *entries])


@bad("out of place")
def torch_two_directories(path):
    # Python's reader takes the directory that stands last, PyTorch's the one that is pointed at.
    bomb = with_pickle(pickle.dumps(Calls(bytearray, 2**38), protocol=2))
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(2)}))) as file:
        good = archive([(f"a/{n.partition('/')[2]}", file.read(n)) for n in file.namelist()])
    end = bomb.rindex(b"PK\x05\x06")
    return bomb + good[:-6] + bomb[end + 16 : end + 20] + good[-2:]


@bad("comment")
def torch_comment(path):
    content = saved({"w": torch.zeros(2)})
    return content[:-2] + struct.pack("<H", 30) + b"PK\x05\x06" + bytes(26)


@bad("is packed")
def torch_packed(path):
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(2)}))) as file:
        entries = [(name, file.read(name)) for name in file.namelist()]
    return archive(entries, zipfile.ZIP_DEFLATED)


@bad("no pickle of tensors alone")
def torch_huge_pickle(path):
    return with_pickle(b"\x80\x02" + b"N0" * (2 * 2**20) + b"N.")


# --- as large as may be ---------------------------------------------------------------------------


@bad("not described")
def header_of_many_lists(path):
    return header(None, raw=b'{"w":[' + b"[]," * (2**21 // 3 - 10) + b"[]]}")


@bad("magic string")
def npz_of_many_entries(path):
    return archive([(f"{place}.npy", b"") for place in range(35_000)])


@bad("holds no tensors")
def torch_pickle_of_many_nones(path):
    return with_pickle(b"\x80\x02(" + b"N" * (2**21 - 10) + b"t.")


@bad("far more objects")
def torch_pickle_of_many_lists(path):
    return with_pickle(b"\x80\x02](" + b"]" * (2**21 - 10) + b"e.")


def write(name, path):
    """Make one bad file, or whatever stands in its place."""
    content = FILES[name](path)
    if content is not None:
        path.write_bytes(content)
