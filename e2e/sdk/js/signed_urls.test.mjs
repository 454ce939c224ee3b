import { describe, it } from 'node:test'
import assert from 'node:assert/strict'
import { setTimeout as pause } from 'node:timers/promises'
import { oneSandbox, tag } from './support.mjs'

describe('signed_urls', () => {
  const shared = oneSandbox()

  it('download', async () => {
    const name = tag()
    await shared.box.files.write(name, 'by link')
    const answer = await fetch(await shared.box.downloadUrl(name, { useSignatureExpiration: 60 }))
    assert.equal(answer.status, 200)
    assert.equal(await answer.text(), 'by link')
  })

  it('upload', async () => {
    const name = tag()
    const body = new FormData()
    body.append('file', new Blob(['uploaded by link']), name)
    const answer = await fetch(await shared.box.uploadUrl(name, { useSignatureExpiration: 60 }), { method: 'POST', body })
    assert.equal(answer.status, 200)
    assert.equal(await shared.box.files.read(name), 'uploaded by link')
  })

  it('expire', async () => {
    const name = tag()
    await shared.box.files.write(name, 'late')
    const url = await shared.box.downloadUrl(name, { useSignatureExpiration: 1 })
    await pause(2100)
    const answer = await fetch(url)
    assert.ok([401, 403].includes(answer.status), String(answer.status))
  })

  it('are good for one file only', async () => {
    const name = tag()
    await shared.box.files.write(name + '2', 'y')
    const url = await shared.box.downloadUrl(name, { useSignatureExpiration: 60 })
    const answer = await fetch(url.replace(name, name + '2'))
    assert.ok([400, 401, 403, 502].includes(answer.status), String(answer.status))
  })
})
