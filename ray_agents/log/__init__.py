r"""The log: Arrow IPC segments on shared storage; this folder is the only one that touches it.

The format, for those who read it without this package. Any Arrow library can; nothing is hidden
in a database, and no row is anywhere else.

**Layout.** A store is a directory::

    FORMAT                                         the line ``ray-agents store 1``
    entities/<type>/<shard>/<id>/                  the log of the entity /<type>/<id>
        0000000007.arrows                          a segment: what the owner of epoch 7 wrote
        sealed/<first>-<last>-<epoch>-<digest>.arrow   rows of older segments, merged or rescued
        sealed/<that name>.<digest>.keys           which message ids are in it
        snapshots/<end>-<epoch>-<digest>.arrow     the rows that tell the state at offset <end>
        ids/<first>-<last>-<epoch>-<digest>.arrow  message ids whose rows were let go
    IDENTITY, hosts/, index/, types/               the runtime's own; not part of this page

In a bucket (``s3://``, ``gs://``) the same names are objects below a prefix. Nothing there
can be appended to, so a segment is a series of objects: the one of its name, with the schema
message, and behind it one for each append::

        0000000007.arrows                              the schema message: the claim itself
        0000000007.arrows.parts/00000000000000000000   the first frame, with the manifest
        0000000007.arrows.parts/00000000000000000001   the next one, and so on without a gap

Joined in this order, up to the first number that is missing, they are the segment as a file has it.
Each object was put on the condition that its key is free and is never written again; its metadata
``ray-agents-put`` is whose put that was. Parts without the object of the name are garbage.

In any folder, names that begin with ``.tmp`` are files on their way to their names: ignore them.

``shard`` is ``xxh3_64(id) mod 256`` in two hex digits: list all shards, or compute it. ``first``
and ``last`` are offsets in 16 digits, an epoch has 10, ``digest`` is the xxh3_64 of the whole
file in 16 hex digits.

**Schema**, the same in both kinds of file, no column dictionary-encoded::

    offset     int64                  place in the log: strictly rising, never reused, with gaps
    time       timestamp[us, UTC]     when it was appended; never goes back
    type       string                 what it is about: run, step, inbox, state:<collection>, …
    key        string                 which one
    operation  string                 insert, update, upsert or delete
    value      string                 the whole row as JSON text; null for a deletion
    headers    string                 a JSON object of strings

The present state is the last row of each (type, key) since the newest ``entity_created``, without
those whose last row is a deletion. Types and their fields: :mod:`ray_agents.records`,
:mod:`ray_agents.runs` and :mod:`ray_agents.events`.

**Segments** are Arrow IPC *streams*: a schema message, then one record batch for each append.

- Metadata of the schema: ``ray_agents_format`` (``1``), ``epoch``, ``host`` and ``token`` (who
  owned it), ``frame_layout``, and ``schema_marker`` with its copy ``schema_marker_again``.
- Metadata of each batch: ``frame_marker`` and its copy ``frame_marker_again``. A marker is 36
  characters: ``RAm1``; the message's length in 8 hex digits; the xxh3_64 of the message with both
  markers set to ``RAm1`` and 32 zeros, in 16; the xxh32 of the marker so far, in 8.
  ``frame_layout`` says how every frame begins (hex) and at which bytes of it the markers stand.
- The first row has type ``log_manifest``. The last one of a segment that was closed has type
  ``log_sealed``; it was never acknowledged and belongs to no log. Its value may hold ``tidied``:
  a manifest that counts instead of the one in the first row.
- A segment without a batch was claimed and never used. A tail that is the beginning of a frame,
  or zeros, was never acknowledged; Arrow reads every whole batch before it complains.

**Sealed files** are Arrow IPC *files* (with a footer) without metadata, their buffers compressed by
LZ4 (as the IPC format defines it, so readers see nothing of it; files of earlier versions are not
compressed). Every sixteenth wake or so merges the segments into one, and small sealed files into
larger ones; the new owner after a crash rewrites what the old one left.

**What makes up the log** is said by the newest manifest alone: the ``log_manifest`` row of the
highest epoch that has a row, or what its owner has made of it by the end (``tidied``). Its value
holds ``files``, oldest first, each as ``[name, first, end, rows, digest]``: the first ``rows`` rows
of that file, with offsets from ``first`` up to but not including ``end``. Sealed files have three
more: the digest of the index of their message ids (the sorted xxh32 of each, little-endian), their
size in bytes, and the time of their newest row. Behind them come the rows of the segment with the
manifest itself. A file that no manifest names is on its way in or out and counts for nothing; so
``sealed/`` by itself is disjoint only while no owner merges, and lacks what is not merged yet.
``digest`` is the one in a sealed file's name; for a segment it is the xxh3_64 of the digests of
its frames, each 8 bytes big-endian. ``snapshot`` is a file in the same form, which holds of the
rows below its ``end`` those that the state depends on, as they stand in the log. ``first`` is the
offset below which rows were let go by the type's retention, and ``ids`` the files that hold what
is left of their messages: id, offset, and in the headers the digest of what they said.

**A fork** begins with a manifest and a row of type ``entity_forked``, and lists files of its source
under hard links, whose names keep the source's epochs; of the last of them maybe only the ``rows``
that were asked for, so that more stand in it than belong to the log. **An export** is one Arrow IPC
file of whole logs (:mod:`ray_agents.log.export`).

**While an owner lives**, rows of the newest segment are safe to believe only by the readers' rule
(:mod:`ray_agents.log.reader`): read, sync the file, and see that there is still no newer epoch.
:func:`ray_agents.scan` does that. A listed file that is gone was merged meanwhile: begin again at
the manifest.
"""
