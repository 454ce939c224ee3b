import { describe, it } from 'node:test'
import assert from 'node:assert/strict'
import { FilesystemEventType, NotFoundError } from 'e2b'
import { eventually, oneSandbox, tag, volume, withSandbox } from './support.mjs'

async function sees(box, dir, options, act, wanted) {
  const seen = new Set()
  const handle = await box.files.watchDir(dir, (event) => { seen.add(`${event.type} ${event.name}`) }, options)
  await act()
  await eventually(() => wanted.every((event) => seen.has(event)))
  await handle.stop()
  for (const event of wanted) assert.ok(seen.has(event), `${event} not in ${[...seen]}`)
}

describe('watch', () => {
  const shared = oneSandbox()

  it('sees create, write, rename and remove', async () => {
    const { files } = shared.box
    const dir = tag()
    await files.makeDir(dir)
    await sees(shared.box, dir, {}, async () => {
      await files.write(`${dir}/a`, 'x')
      await files.rename(`${dir}/a`, `${dir}/b`)
      await files.remove(`${dir}/b`)
    }, [`${FilesystemEventType.CREATE} a`, `${FilesystemEventType.WRITE} a`, `${FilesystemEventType.RENAME} a`, `${FilesystemEventType.REMOVE} b`])
  })

  it('sees what is below when asked to', async () => {
    const dir = tag()
    await shared.box.files.makeDir(`${dir}/sub`)
    await sees(shared.box, dir, { recursive: true }, () => shared.box.files.write(`${dir}/sub/a`, 'x'), [`${FilesystemEventType.WRITE} sub/a`])
  })

  it('says that a directory is missing', () => assert.rejects(shared.box.files.watchDir(tag(), () => {}), NotFoundError))

  it('sees a volume too', () => withSandbox({ metadata: volume('scratch', '/data') }, (box) =>
    sees(box, '/data', {}, () => box.files.write('/data/a', 'x'), [`${FilesystemEventType.CREATE} a`])))
})
