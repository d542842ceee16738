/**
 * `/_api/collection` and `/_api/document`.
 *
 * @internal
 */
import type { Call, Reply } from "./protocol.js"
import { below, failure, fields, notFound, ok, text } from "./protocol.js"
import type { StoredDocument, Workspace } from "./store.js"

const unknownCollection = (name: string) =>
  failure(404, 1203, `collection or view not found: ${name}`)

const unknownDocument = failure(404, 1202, "document not found")

const described = (name: string) => ({
  id: name,
  name,
  globallyUniqueId: name,
  type: 2,
  status: 3,
  statusString: "loaded",
  isSystem: name.startsWith("_")
})

/** @internal */
export const collections = (call: Call, { store, write }: Workspace): Reply | undefined => {
  const parts = below("/_api/collection", call.path)
  if (parts === undefined) return undefined
  const { database } = call
  const [name, property] = parts
  if (name === undefined) {
    if (call.method === "GET") return ok({ result: store.collections(database).map(described) })
    const created = text(fields(call.body)["name"])
    if (call.method !== "POST" || created === "") return notFound(call)
    if (store.collection(database, created) !== undefined) {
      return failure(409, 1207, `duplicate name: ${created}`)
    }
    write({ kind: "collection", database, collection: created })
    return ok(described(created))
  }
  const documents = store.collection(database, name)
  if (documents === undefined) return unknownCollection(name)
  if (call.method === "GET") {
    return ok({ ...described(name), ...(property === "count" ? { count: documents.size } : {}) })
  }
  if (call.method === "DELETE") {
    write({ kind: "drop", database, collection: name })
    return ok({ id: name })
  }
  if (call.method === "PUT" && property === "truncate") {
    for (const key of [...documents.keys()]) {
      write({ kind: "remove", database, collection: name, key })
    }
    return ok(described(name))
  }
  return notFound(call)
}

const handle = ({ _id, _key, _rev }: StoredDocument) => ({ _id, _key, _rev })

/** The statement of a write with `silent`, `returnNew` and `returnOld`. */
const written = (
  call: Call,
  before: StoredDocument | undefined,
  after: StoredDocument | undefined
): unknown => {
  if (call.query.get("silent") === "true") return {}
  const subject = after ?? before
  return {
    ...(subject === undefined ? {} : handle(subject)),
    ...(before !== undefined ? { _oldRev: before._rev } : {}),
    ...(call.query.get("returnNew") === "true" ? { new: after } : {}),
    ...(call.query.get("returnOld") === "true" && before !== undefined ? { old: before } : {})
  }
}

/** Documents are written without waiting for the disk unless asked: 202; 201 and 200 after it. */
const status = (call: Call, synced: number) =>
  call.query.get("waitForSync") === "true" ? synced : 202

const isOutdated = (call: Call, document: StoredDocument): boolean => {
  const wanted = call.headers["if-match"]
  return wanted !== undefined && wanted.replaceAll('"', "") !== document._rev
}

const conflict = failure(412, 1200, "conflict, _rev values do not match")

/** @internal */
export const insert = (
  workspace: Workspace,
  where: { readonly database: string; readonly collection: string },
  input: unknown,
  overwriteMode: string | null = null
): { readonly before?: StoredDocument; readonly after: StoredDocument } | Reply => {
  const { database, collection } = where
  const documents = workspace.store.collection(database, collection)
  if (documents === undefined) return unknownCollection(collection)
  const given = fields(input)
  const key = text(given["_key"]) || workspace.nextId()
  const before = documents.get(key)
  if (before !== undefined && (overwriteMode === null || overwriteMode === "conflict")) {
    return failure(
      409,
      1210,
      `unique constraint violated - in index primary of type primary over '_key'; conflicting key: ${key}`
    )
  }
  if (before !== undefined && overwriteMode === "ignore") return { before, after: before }
  const after = {
    ...(overwriteMode === "update" ? before : {}),
    ...given,
    _key: key,
    _id: `${collection}/${key}`,
    _rev: `_${workspace.nextId()}`
  }
  workspace.write({ kind: "put", database, collection, key, document: after })
  return before === undefined ? { after } : { before, after }
}

const isReply = (value: object): value is Reply => "status" in value

const create = (call: Call, workspace: Workspace, collection: string): Reply => {
  const one = (input: unknown): Reply => {
    const where = { database: call.database, collection }
    const result = insert(workspace, where, input, call.query.get("overwriteMode"))
    return isReply(result)
      ? result
      : { status: status(call, 201), body: written(call, result.before, result.after) }
  }
  if (!Array.isArray(call.body)) return one(call.body)
  return { status: status(call, 201), body: call.body.map((input) => one(input).body) }
}

/** @internal */
export const documents = (call: Call, workspace: Workspace): Reply | undefined => {
  const parts = below("/_api/document", call.path)
  if (parts === undefined) return undefined
  const [collection, key] = parts
  if (collection === undefined) return notFound(call)
  const found = workspace.store.collection(call.database, collection)
  if (found === undefined) return unknownCollection(collection)
  if (key === undefined) {
    return call.method === "POST" ? create(call, workspace, collection) : notFound(call)
  }
  const document = found.get(key)
  if (document === undefined) return unknownDocument
  const where = { database: call.database, collection, key }
  switch (call.method) {
    case "GET":
    case "HEAD":
      return {
        status: 200,
        body: document,
        headers: { etag: `"${document._rev}"` }
      }
    case "PUT":
    case "PATCH": {
      if (isOutdated(call, document)) return conflict
      const after = {
        ...(call.method === "PATCH" ? document : {}),
        ...fields(call.body),
        _key: key,
        _id: document._id,
        _rev: `_${workspace.nextId()}`
      }
      workspace.write({ kind: "put", ...where, document: after })
      return { status: status(call, 201), body: written(call, document, after) }
    }
    case "DELETE":
      if (isOutdated(call, document)) return conflict
      workspace.write({ kind: "remove", ...where })
      return { status: status(call, 200), body: written(call, document, undefined) }
    default:
      return notFound(call)
  }
}
