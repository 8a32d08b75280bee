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

FILES = {}


def bad(make):
    """Put a maker into the corpus; it returns bytes to write, or writes the path itself."""
    FILES[make.__name__] = make
    return make


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


@bad
def folder(path):
    path.mkdir()


@bad
def pipe(path):
    os.mkfifo(path)


@bad
def symlink_loop(path):
    path.symlink_to(path)


@bad
def dangling_symlink(path):
    path.symlink_to(path.with_name("nowhere"))


@bad
def endless_device(path):
    path.symlink_to("/dev/zero")


@bad
def empty(path):
    return b""


@bad
def one_byte(path):
    return b"P"


@bad
def plain_text(path):
    return b"weights, as promised\n" * 40


@bad
def bare_pickle(path):
    return pickle.dumps({"fc.weight": [1.0]})


@bad
def hostile_bare_pickle(path):
    return pickle.dumps(Calls(os.system, f"touch {path}.ran"))


# --- safetensors ----------------------------------------------------------------------------------


@bad
def header_longer_than_file(path):
    return header({}, length=10**6)


@bad
def header_length_overflows(path):
    return header({}, length=2**64 - 1)


@bad
def huge_header(path):
    return header(None, raw=b'{"a":"' + b"x" * (3 * 2**20) + b'"}')


@bad
def header_no_json(path):
    return header(None, raw=b"{weights}")


@bad
def header_no_object(path):
    return header(["fc.weight"])


@bad
def header_nested(path):
    return header(None, raw=b"[" * 10**5)


@bad
def header_huge_number(path):
    return header(None, raw=b'{"a":' + b"9" * 10**5 + b"}")


@bad
def header_not_unicode(path):
    return header(None, raw=b'{"\xff\xfe": 1}')


@bad
def no_tensors(path):
    return header({})


@bad
def repeated_name(path):
    one = json.dumps(tensor([1], [0, 4]))
    return header(None, raw=f'{{"w": {one}, "w": {one}}}'.encode(), data=bytes(4))


@bad
def absurd_name(path):
    return header({"x" * 10**4: tensor([1], [0, 4])}, bytes(4))


@bad
def control_characters(path):
    return header({"fc\n\x1b[2J.weight": tensor([1], [0, 4])}, bytes(4))


@bad
def shape_lies(path):
    return header({"w": tensor([1000, 1000], [0, 4])}, bytes(4))


@bad
def shape_overflows(path):
    return header({"w": tensor([2**33, 2**33], [0, 4])}, bytes(4))


@bad
def shape_negative(path):
    return header({"w": tensor([-1, 4], [0, 4])}, bytes(4))


@bad
def shape_of_many_sides(path):
    return header({"w": tensor([1] * 1000, [0, 4])}, bytes(4))


@bad
def shape_no_list(path):
    return header({"w": tensor("all", [0, 4])}, bytes(4))


@bad
def offsets_overlap(path):
    return header({"v": tensor([2], [0, 8]), "w": tensor([2], [4, 12])}, bytes(12))


@bad
def offsets_backwards(path):
    return header({"w": tensor([1], [4, 0])}, bytes(4))


@bad
def offsets_with_gap(path):
    return header({"w": tensor([1], [8, 12])}, bytes(12))


@bad
def data_cut_short(path):
    return header({"w": tensor([4], [0, 16])}, bytes(15))


@bad
def data_left_over(path):
    return header({"w": tensor([1], [0, 4])}, bytes(40))


@bad
def complex_numbers(path):
    return header({"w": tensor([1], [0, 8], "C64")}, bytes(8))


@bad
def eight_bit_floats(path):
    return header({"w": tensor([4], [0, 4], "F8_E4M3")}, bytes(4))


@bad
def unknown_numbers(path):
    return header({"w": tensor([4], [0, 4], "F4000")}, bytes(4))


@bad
def nan_numbers(path):
    data = np.array([[0, np.nan], [1, 2]], dtype="<f4").tobytes()
    return header({"fc.weight": tensor([2, 2], [0, 16])}, data)


@bad
def infinite_numbers(path):
    data = np.array([[0, 1], [-np.inf, 2]], dtype="<f4").tobytes()
    return header({"fc.weight": tensor([2, 2], [0, 16])}, data)


# --- npz ------------------------------------------------------------------------------------------


@bad
def npz_cut_short(path):
    return archive([("w.npy", npy())])[:-30]


@bad
def npz_nothing_in_it(path):
    return b"PK\x03\x04" + archive([])


@bad
def npz_objects(path):
    array = np.array([Calls(os.system, f"touch {path}.ran")], dtype=object)
    buffer = io.BytesIO()
    np.savez(buffer, w=array)
    return buffer.getvalue()


@bad
def npz_no_array(path):
    return archive([("readme.txt", b"hello")])


@bad
def npz_escaping_name(path):
    return archive([("../../\nescape.npy", npy())])


@bad
def npz_shape_lies(path):
    return archive([("w.npy", npy("(1000, 1000)"))])


@bad
def npz_shape_overflows(path):
    return archive([("w.npy", npy(f"({2**63}, {2**63})"))])


@bad
def npz_shape_negative(path):
    return archive([("w.npy", npy("(-2, -2)"))])


@bad
def npz_header_runs_code(path):
    return archive([("w.npy", npy("__import__('os').getcwd()"))])


@bad
def npz_unknown_format(path):
    return archive([("w.npy", npy(magic=b"\x93NUMPY\x09\x00"))])


@bad
def npz_text(path):
    return archive([("w.npy", npy("(2,)", "'<U2'"))])


@bad
def npz_records(path):
    return archive([("w.npy", npy("(2,)", "[('a', '<f4'), ('b', '<f4')]"))])


@bad
def npz_complex(path):
    return archive([("w.npy", npy("(2,)", "'<c8'"))])


@bad
def npz_foreign_byte_order(path):
    return archive([("w.npy", npy(descr="'>f4'"))])


@bad
def npz_nan(path):
    data = np.array([[0, np.nan], [1, 2]], dtype="<f4").tobytes()
    return archive([("fc.weight.npy", npy(data=data))])


@bad
def npz_twice(path):
    one = archive([("v.npy", npy()), ("w.npy", npy())])
    return one.replace(b"w.npy", b"v.npy")


@bad
def npz_bomb(path):
    shape, data = f"({2**25},)", bytes(2**27)
    return archive([("w.npy", npy(shape, data=data))], zipfile.ZIP_DEFLATED)


@bad
def npz_directory_lies_about_size(path):
    return patched(archive([("w.npy", npy())]), 0, 24, struct.pack("<I", 2**31))


@bad
def npz_directory_too_long(path):
    content = archive([("w.npy", npy())])
    place = content.rindex(b"PK\x05\x06") + 12
    return content[:place] + struct.pack("<I", 2**30) + content[place + 4 :]


@bad
def npz_wrong_checksum(path):
    return patched(archive([("w.npy", npy())]), 0, 16, struct.pack("<I", zlib.crc32(b"other")))


@bad
def npz_encrypted(path):
    return patched(archive([("w.npy", npy())]), 0, 8, struct.pack("<H", 1))


@bad
def npz_lzma(path):
    return archive([("w.npy", npy())], zipfile.ZIP_LZMA)


@bad
def npz_overlapping(path):
    content = archive([("v.npy", npy(f"({2**12},)", data=bytes(2**14))), ("w.npy", npy())])
    size = struct.unpack_from("<I", content, content.index(b"PK\x01\x02") + 20)[0]
    wide = patched(content, 1, 20, struct.pack("<II", size, size))
    return patched(wide, 1, 42, struct.pack("<I", 0))


# --- PyTorch --------------------------------------------------------------------------------------


@bad
def torch_runs_code(path):
    return saved(Calls(os.system, f"touch {path}.ran"))


@bad
def torch_runs_code_newer_pickle(path):
    return with_pickle(pickle.dumps(Calls(os.system, f"touch {path}.ran"), protocol=4))


@bad
def torch_evaluates(path):
    return saved({"w": torch.zeros(2), "x": Calls(eval, "1 + 1")})


@bad
def torch_byte_array_bomb(path):
    return with_pickle(pickle.dumps(Calls(bytearray, 2**38), protocol=2))


@bad
def torch_whole_model(path):
    return saved(torch.nn.Linear(2, 2))


@bad
def torch_numpy(path):
    return saved({"w": np.zeros(3)})


@bad
def torch_old_format(path):
    return saved({"w": torch.zeros(2)}, _use_new_zipfile_serialization=False)


@bad
def torch_expanded_view(path):
    return saved({"fc.weight": torch.zeros(1).expand(10**6, 10**6)})


@bad
def torch_sparse(path):
    return saved({"fc.weight": torch.eye(3).to_sparse()})


@bad
def torch_complex(path):
    return saved({"fc.weight": torch.zeros(3, 2, dtype=torch.complex64)})


@bad
def torch_meta(path):
    return saved({"fc.weight": torch.zeros(10**5, 10**5, device="meta")})


@bad
def torch_eight_bit_floats(path):
    return saved({"fc.weight": torch.zeros(3, 2).to(torch.float8_e5m2)})


@bad
def torch_nan(path):
    return saved({"fc.weight": torch.full((3, 2), torch.nan)})


@bad
def torch_infinite(path):
    return saved({"fc.weight": torch.full((3, 2), torch.inf, dtype=torch.bfloat16)})


@bad
def torch_no_tensors(path):
    return saved(OrderedDict())


@bad
def torch_number(path):
    return saved({"fc.weight": torch.zeros(3, 2), "epoch": 7})


@bad
def torch_numbered_names(path):
    return saved({7: torch.zeros(3, 2)})


@bad
def torch_cut_short(path):
    return saved({"fc.weight": torch.zeros(300, 2)})[:-400]


@bad
def torch_storage_missing(path):
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(2)}))) as file:
        entries = [(n, file.read(n)) for n in file.namelist() if not n.endswith("data/0")]
    return archive(entries)


@bad
def torch_shape_lies(path):
    # 137 and 11 are single-byte numbers in the pickle: K<byte>.
    return forged({"fc.weight": torch.zeros(137, 11)}, b"K\x89K\x0b", b"K\xffK\xff")


@bad
def torch_storage_lies(path):
    big = forged({"fc.weight": torch.zeros(137)}, b"K\x89", b"J\xff\xff\xff\x7f")
    return big


@bad
def torch_stray_opcodes(path):
    return with_pickle(b"\x80\x02)))))))R.")


@bad
def torch_pickle_nested(path):
    return with_pickle(b"\x80\x02" + b"(" * 10**5 + b".")


@bad
def torch_packed(path):
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(2)}))) as file:
        entries = [(name, file.read(name)) for name in file.namelist()]
    return archive(entries, zipfile.ZIP_DEFLATED)


@bad
def torch_huge_pickle(path):
    return with_pickle(b"\x80\x02" + b"N0" * (2 * 2**20) + b"N.")


def write(name, path):
    """Make one bad file, or whatever stands in its place."""
    content = FILES[name](path)
    if content is not None:
        path.write_bytes(content)
