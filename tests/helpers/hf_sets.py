"""Data sets of Hugging Face, written as its library `datasets` does, without it."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(rows, names, files=True, label="label"):
    """A table of (label, file name, bytes); `names` are those of the ClassLabel, if any."""
    images = [{"bytes": data, "path": name if files else None} for _, name, data in rows]
    columns = {"image": pa.array(images, IMAGE)}
    features = {"image": {"_type": "Image"}}
    if label:
        columns[label] = pa.array([row[0] for row in rows])
    if names:
        features[label] = {"names": names, "_type": "ClassLabel"}
    found = pa.table(columns)
    return found.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def save_to_disk(root, splits):
    """ROOT/SPLIT/*.arrow; a single table instead of splits gives ROOT/*.arrow."""
    if isinstance(splits, pa.Table):
        _save(root, splits)
        return
    for name, each in splits.items():
        _save(root / name, each)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))


def _save(folder, found):
    folder.mkdir(parents=True)
    files = [f"data-{i:05}-of-00002.arrow" for i in range(2)]
    half = (len(found) + 1) // 2
    for i, file in enumerate(files):
        with pa.ipc.new_stream(str(folder / file), found.schema) as writer:
            writer.write_table(found.slice(i * half, half), max_chunksize=3)
    features = json.loads(found.schema.metadata[b"huggingface"])["info"]["features"]
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    state = {"_data_files": [{"filename": file} for file in files], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))


def write_parquet(folder, split, found, shards=2, group=5, compression="none"):
    """FOLDER/SPLIT-00000-of-0000N.parquet, in groups of `group` rows."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(found) // shards)
    for i in range(shards):
        path = folder / f"{split}-{i:05}-of-{shards:05}.parquet"
        part = found.slice(i * size, size)
        # As `datasets` writes images: without a dictionary, which few of them would profit from.
        pq.write_table(
            part, path, row_group_size=group, compression=compression, use_dictionary=False
        )
