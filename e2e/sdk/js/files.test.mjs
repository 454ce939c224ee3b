import { describe, it } from 'node:test'
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { FileType, NotFoundError } from 'e2b'
import { oneSandbox, tag } from './support.mjs'

describe('files', () => {
  const shared = oneSandbox()

  it('come back as written', async () => {
    const { files } = shared.box
    const name = tag()
    const info = await files.write(`/home/user/${name}.txt`, 'hällo\n')
    assert.equal(info.path, `/home/user/${name}.txt`)
    assert.equal(await files.read(`${name}.txt`), 'hällo\n')
    const data = new Uint8Array(1280).map((_, i) => i % 256)
    await files.write(name, data.buffer)
    assert.deepEqual(Buffer.from(await files.read(name, { format: 'bytes' })), Buffer.from(data))
  })

  it('belong to the user', async () => {
    const name = tag()
    await shared.box.files.write(`deep/${name}/f`, 'x')
    assert.equal((await shared.box.commands.run(`stat -c %U:%G deep/${name} deep/${name}/f`)).stdout, 'user:user\nuser:user\n')
  })

  it('stream in and out', async () => {
    const name = tag()
    await shared.box.files.write(name, new Blob(['streamed '.repeat(1000)]).stream())
    let text = ''
    for await (const chunk of await shared.box.files.read(name, { format: 'stream' })) text += Buffer.from(chunk)
    assert.equal(text, 'streamed '.repeat(1000))
  })

  it('may have twenty megabytes', async () => {
    const data = randomBytes(20 << 20)
    const name = `/tmp/${tag()}`
    await shared.box.files.write(name, data.buffer.slice(data.byteOffset, data.byteOffset + data.length))
    const sum = createHash('sha256').update(data).digest('hex')
    assert.equal((await shared.box.commands.run(`sha256sum ${name} | cut -d' ' -f1`)).stdout.trim(), sum)
    assert.equal(createHash('sha256').update(await shared.box.files.read(name, { format: 'bytes' })).digest('hex'), sum)
    await shared.box.files.remove(name)
  })

  it('are written several at once', async () => {
    const dir = `/tmp/${tag()}`
    await shared.box.files.write([0, 1, 2, 3, 4].map((i) => ({ path: `${dir}/${i}`, data: String(i) })))
    assert.deepEqual((await shared.box.files.list(dir)).map((e) => e.name).sort(), ['0', '1', '2', '3', '4'])
  })

  it('are listed with type, size and depth', async () => {
    const dir = tag()
    await shared.box.commands.run(`mkdir -p ${dir}/sub; echo 12345 > ${dir}/file; echo x > ${dir}/sub/inner`)
    const entries = Object.fromEntries((await shared.box.files.list(dir)).map((e) => [e.name, e]))
    assert.deepEqual(Object.keys(entries).sort(), ['file', 'sub'])
    assert.equal(entries.file.type, FileType.FILE)
    assert.equal(entries.sub.type, FileType.DIR)
    assert.equal(entries.file.size, 6)
    assert.equal(entries.file.path, `/home/user/${dir}/file`)
    assert.equal((await shared.box.files.list(dir, { depth: 2 })).length, 3)
  })

  it('exist, move and go', async () => {
    const name = tag()
    const { files } = shared.box
    await files.write(name, 'x')
    assert.equal((await files.getInfo(name)).size, 1)
    assert.equal((await files.rename(name, name + '2')).path, `/home/user/${name}2`)
    assert.deepEqual([await files.exists(name), await files.exists(name + '2')], [false, true])
    await files.remove(name + '2')
    assert.equal(await files.exists(name + '2'), false)
  })

  it('make a directory once', async () => {
    const name = tag()
    assert.equal(await shared.box.files.makeDir(`${name}/a/b`), true)
    assert.equal(await shared.box.files.makeDir(`${name}/a/b`), false)
  })

  it('are not found when missing', async () => {
    const name = tag()
    await assert.rejects(shared.box.files.read(name), NotFoundError)
    await assert.rejects(shared.box.files.list(name), NotFoundError)
    await assert.rejects(shared.box.files.getInfo(name), NotFoundError)
  })
})
