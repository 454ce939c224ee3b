import asyncio

from e2b import AsyncSandbox, FilesystemEventType

from conftest import volume


def test_many_sandboxes_at_the_same_time():
    async def one(i):
        box = await AsyncSandbox.create(template="base", timeout=120, metadata=volume("scratch", "/data"))
        try:
            await box.files.write("/data/f", str(i))
            return (await box.commands.run("cat /data/f")).stdout
        finally:
            assert await box.kill()

    async def main():
        return await asyncio.gather(*(one(i) for i in range(8)))

    assert asyncio.run(main()) == [str(i) for i in range(8)]


def test_the_streaming_watcher():
    async def main():
        box = await AsyncSandbox.create(template="base", timeout=120)
        seen, done = [], asyncio.Event()

        def on_event(event):
            seen.append((event.name, event.type))
            if ("a", FilesystemEventType.WRITE) in seen:
                done.set()

        try:
            handle = await box.files.watch_dir("/home/user", on_event=on_event)
            await box.files.write("/home/user/a", "x")
            await asyncio.wait_for(done.wait(), 10)
            await handle.stop()
        finally:
            await box.kill()
        return seen

    assert ("a", FilesystemEventType.CREATE) in asyncio.run(main())
