"""Captions of one's own: a table in the folder, or the folders' names."""

import json
import shutil
import warnings

import pytest
import soundfile

from latentclap.cache import cache_parts, described, described_parts, find_parts, list_clips
from latentclap.cache.folders import caption_for, label
from latentclap.cache.pack import pack
from latentclap.errors import InputError
from latentclap.tables import rows_of
from test_cache import RATE, noise, said


def put(folder, *names):
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(sum(name.encode()) + i), RATE)
    return folder


def captions(folder, **options):
    layout, items = list_clips(folder, **options)
    return layout, {item.key: item.caption or item.problem for item in items}


AS_THEY_ARE = {
    "plain": (".csv", b'file_name,caption\na.wav,"rain, heavy"\nsub/b.wav,a dog\n'),
    "bom, CRLF, upper case": (
        ".csv",
        "\ufeffFile_Name,Caption\r\na.wav,\"rain,\r\nheavy\"\r\nsub/b.wav,a dog\r\n".encode(),
    ),
    "spreadsheet": (".csv", b"file_name;text\r\na.wav;rain, heavy\r\n\r\n;\r\nsub\\b.wav;a dog\r\n"),
    "sep line": (".csv", b"sep=;\r\nfile_name;text\r\na.wav;rain, heavy\r\nsub\\b.wav;a dog\r\n"),
    "utf-16": (".tsv", "id\tfile_name\tprompt\r\n1\ta.wav\train, heavy\r\n2\tSub/B.WAV\ta dog\r\n".encode("utf-16")),
    "blank lines first": (".tsv", b"\n\nfile_name\ttranscription\na.wav\train, heavy\n./sub/x/../b.wav\ta dog\t\t\n"),
    "jsonl": (
        ".jsonl",
        b'{"file_name": "a.wav", "caption": "rain,\\nheavy"}\n\n'
        b'{"file_name": "sub/b.wav", "caption": ["a dog", "x"]}\n',
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", AS_THEY_ARE)
def test_tables_as_people_have_them(tmp_path, form):
    put(tmp_path, "a.wav", "sub/b.wav")
    suffix, data = AS_THEY_ARE[form]
    (tmp_path / f"metadata{suffix}").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert captions(tmp_path) == ("metadata", {"a": "rain, heavy", "sub/b": "a dog"})


def test_rows_and_sounds_that_do_not_meet(tmp_path):
    put(tmp_path, "a.wav", "b.wav", "c.wav", "d.wav")
    rows = ["a.wav,one", "gone.wav,x", "a.wav,two", "b.wav,", ",y"]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,caption", *rows]))
    with pytest.warns(UserWarning) as told:
        layout, clips = captions(tmp_path)
    assert (layout, clips) == ("metadata", {"a": "one", "gone": "no sound file", "b": "no caption"})
    text = "\n".join(str(w.message) for w in told)
    assert "rows for a sound that an earlier one names, left out: 1" in text
    assert (
        "rows without file_name, left out: 1" in text
        and "sounds that are not in the table, left out: 2" in text
    )
    with pytest.warns(UserWarning):
        assert described(*list_clips(tmp_path)).startswith("1 caption from the folder's table")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            "file,words\na.wav,x\n",
            r"no column file_name and no column caption or text or .*; it has file, words;",
        ),
        (
            "file_name,words\na.wav,x\n",
            r"no column caption or text or prompt or transcription; it has file_name",
        ),
        ("", "it is empty"),
        ("file_name,caption\n", "no row names a sound"),
        ("file_name,caption\n../a.wav,x\n", r"line 2: \.\./a\.wav lies outside"),
        ("file_name,caption\n\n/a.wav,x\n", "line 3: /a.wav lies outside"),
        ("file_name,caption\nC:\\x\\a.wav,x\n", r"line 2: C:\\x\\a\.wav lies outside"),
        ("file_name,caption\na.wav,a dog, barking\n", "line 2 has 3 fields for 2 columns"),
        ('file_name,caption\na.wav,"a dog\nb.wav,x\n', "line 2: unexpected end of data"),
        ("file_name,caption\nx.wav,a dog\n", r"not one of its 1 sounds is there, the first is x \(1 others"),
        ("file_name,caption\na.wav, \n", "not one of its 1 rows has a caption"),
        (b"file_name,caption\na.wav,caf\xe9\n", "not UTF-8; save it as CSV in UTF-8"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, table, says):
    put(tmp_path, "a.wav")
    (tmp_path / "metadata.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(InputError, match=says) as stop:
        list_clips(tmp_path)
    assert "\n" not in str(stop.value) and "metadata.csv" in str(stop.value)


def test_bad_json_lines_and_two_tables(tmp_path):
    put(tmp_path, "a.wav")
    table = tmp_path / "metadata.jsonl"
    table.write_text('{"file_name": "a.wav", "text": "x"}\nnot JSON\n')
    with pytest.raises(InputError, match="line 2 is not a JSON object"):
        list_clips(tmp_path)
    table.write_text('{"file_name": "a.wav", "text": "x"}\n')
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.wav,x\n")
    with pytest.raises(InputError, match=r"metadata.csv and metadata.jsonl are both tables"):
        list_clips(tmp_path)


def test_a_table_beside_other_layouts(tmp_path):
    """It comes before flat class folders, and after sides; one that is none leaves captions beside the sounds."""
    own = put(tmp_path / "own", "rain/a.wav", "rain/b.wav")
    (own / "metadata.csv").write_text("file_name,caption\nrain/a.wav,drizzle\nrain/b.wav,a storm\n")
    assert captions(own) == ("metadata", {"rain/a": "drizzle", "rain/b": "a storm"})
    (own / "metadata.csv").write_text("file_name,caption,split\nrain/a.wav,x,dev\nrain/b.wav,y,eval\n")
    with pytest.warns(UserWarning, match="set of classes with sides"):
        assert captions(own) == ("classes", {"rain/a": "This is a sound of rain."})
    (own / "metadata.csv").write_text("file,group\nrain/a.wav,1\nrain/b.wav,2\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert captions(own)[0] == "classes"
    beside = put(tmp_path / "beside", "a.wav")
    (beside / "a.txt").write_text("x")
    (beside / "metadata.csv").write_text("id,licence\n1,CC0\n")
    with pytest.warns(UserWarning, match="it has id, licence.*captions beside the sounds are taken"):
        assert captions(beside) == ("captions", {"a": "x"})
    with pytest.raises(InputError, match=r"own.metadata.csv: a table of captions; give its own folder"):
        shutil.rmtree(beside)
        list_clips(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Door_Slam", "door slam"), ("DoorSlam", "door slam"), ("door-slam ", "door slam"),
        ("UFOLanding", "ufo landing"),
        ("001 - Door slam", "door slam"), ("02_glass", "glass"), ("808_kick", "808 kick"), ("Türknall", "türknall"),
    ],
)  # fmt: skip
def test_a_folder_s_name_in_words(name, words):
    assert label(name) == words


def test_folder_names(tmp_path):
    put(tmp_path, "Door_Slam/01.wav", "Door_Slam/wav/2.wav", "x/Glass/0001/a.wav", "stray.wav")
    door = "This is a sound of door slam."
    told = {"Door_Slam/01": door, "Door_Slam/wav/2": door, "x/Glass/0001/a": "This is a sound of glass.", "stray": "no caption"}  # fmt: skip  # noqa: E501
    assert captions(tmp_path) == ("folders", told)
    line = 'such as "This is a sound of door slam." and "This is a sound of glass."'
    text = said("pack_shards", tmp_path, tmp_path.parent / "out", "--dry-run")
    assert (
        f"3 captions from folder names (2 different), {line}" in text and "(folders): 4 clips; 1 left" in text
    )
    assert described_parts(find_parts(tmp_path)).endswith(line)
    (tmp_path / "stray.txt").write_text("a stray")  # with one caption beside a sound it is what it was
    layout, clips = captions(tmp_path)
    assert layout == "captions" and list(clips.values()).count("no caption") == 3


def test_sides_of_other_classes(tmp_path):
    put(tmp_path, "dev/door/a.wav", "eval/door/b.wav", "door/c.wav")
    assert list(captions(tmp_path)[1]) == ["dev/door/a", "door/c"]
    assert list(captions(tmp_path, side="eval")[1]) == ["eval/door/b"]
    assert len(captions(tmp_path, side="all")[1]) == 3
    with pytest.raises(InputError, match="side 'test': it is dev, eval or all"):
        list_clips(tmp_path, side="test")
    shutil.rmtree(tmp_path / "dev")
    shutil.rmtree(tmp_path / "door")
    with pytest.raises(InputError, match="no sound on the side dev"):
        list_clips(tmp_path)


def test_nothing_says_what_is_heard(tmp_path):
    put(tmp_path, "a.wav", "01/b.wav")
    with pytest.raises(
        InputError, match=r"2 sounds and no caption: add metadata.csv with a column file_name"
    ) as e:
        list_clips(tmp_path)
    assert "\n" not in str(e.value)


def test_class_folders_with_others(tmp_path):
    put(tmp_path, "dog_bark/1.wav", "rain/1.wav", "thunder/1.wav", "door/1.wav", "eval/bell/1.wav")
    (tmp_path / "rain/cut.wav").write_bytes(b"RIFF")
    with pytest.warns(UserWarning) as told:
        layout, clips = captions(tmp_path)
    first, second = (str(w.message) for w in told)  # of the scan's problems those that are still some
    assert "bell, door, thunder: none of DCASE's seven classes" in first
    assert "1 problem (1 unreadable)" in second and "wrong class" not in second
    assert layout == "folders"
    assert clips == {
        "dog_bark/1": "This is a sound of dog bark.", "rain/1": "This is a sound of rain.",
        "door/1": "This is a sound of door.", "thunder/1": "This is a sound of thunder.",
    }  # fmt: skip
    (tmp_path / "door/1.txt").write_text("a heavy door")  # captions beside the others count for them
    with pytest.warns(UserWarning, match="none of DCASE"):
        clips = captions(tmp_path)[1]
    assert (clips["door/1"], clips["thunder/1"]) == ("a heavy door", "no caption")


def test_an_edited_caption_makes_its_shard_again(tiny, tmp_path):
    source = put(tmp_path / "in", "a.wav", "b.wav", "c.wav")
    rows = [{"file_name": f"{n}.wav", "caption": f"sound {n}"} for n in "abc"]
    table, out = source / "metadata.jsonl", tmp_path / "out"

    def run():
        table.write_text("\n".join(map(json.dumps, rows)))
        made = cache_parts(tiny, find_parts(source, per_shard=2), out, progress=False)
        return made.shards, made.kept

    assert (run(), run()) == ((2, 0), (0, 2))
    pack(list_clips(source)[1], tmp_path / "tars", per_shard=2)
    rows[2]["caption"] = "another"
    assert run() == (1, 1)
    assert pack(list_clips(source)[1], tmp_path / "tars", per_shard=2).again == 1
    table.unlink()
    folders = put(tmp_path / "folders", "door/a.wav", "glass/b.wav")
    assert cache_parts(tiny, find_parts(folders, per_shard=1), tmp_path / "o", progress=False).shards == 2
    assert cache_parts(tiny, find_parts(folders, per_shard=1), tmp_path / "o", progress=False).kept == 2
    (folders / "glass").rename(folders / "broken_glass")
    made = cache_parts(tiny, find_parts(folders, per_shard=1), tmp_path / "o", progress=False)
    assert (made.shards, made.kept) == (2, 0)  # the names are in order: the first is another clip now


def test_names_from_places(tmp_path):
    from pathlib import Path

    assert caption_for(Path("train/DogBark/a.wav")) == "This is a sound of dog bark."
    assert caption_for(Path("2024-05-01/a.wav")) == caption_for(Path("a.wav")) == ""
    (tmp_path / "t.csv").write_text("\n a ,b\n\n1,2\n")
    assert list(rows_of(tmp_path / "t.csv")) == [(2, [" a ", "b"]), (4, ["1", "2"])]
