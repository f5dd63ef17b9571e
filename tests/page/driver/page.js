// What the tests ask of ComfyUI's page, whose application is `app`. Runs in the page.
window.tests = {
  EVENTS: [
    'executing', 'executed', 'progress', 'progress_text',
    'execution_success', 'execution_error', 'execution_interrupted',
  ],
  PROGRESS_TEXT: '$$node-text-preview', // the frontend's name for its widget
  events: [], // [name, what came with it]

  listen() {
    for (const name of this.EVENTS)
      app.api.addEventListener(name, ({ detail }) => this.events.push([name, detail]))
  },

  ready() {
    return Boolean(window.app?.vueAppReady && app.graph?.nodes.length)
  },

  // How a job ended, null while it goes on.
  end(job) {
    const ends = /^execution_(success|error|interrupted)$/
    return this.events.find(([name, what]) => ends.test(name) && what.prompt_id === job)?.[0] ?? null
  },

  progress(type) {
    const id = String(this.node(type).id)
    return this.events.some(([name, what]) => name === 'progress' && String(what.node) === id)
  },

  node(type) {
    const found = app.graph.nodes.filter((node) => node.type === type)
    if (found.length !== 1) throw new Error(`${found.length} nodes of type ${type}`)
    return found[0]
  },

  widget(type, name) {
    const widget = this.node(type).widgets.find((one) => one.name === name)
    if (!widget) throw new Error(`${type} has no widget ${name}`)
    return widget
  },

  set(type, name, value) {
    const widget = this.widget(type, name)
    widget.value = value
    widget.callback?.(widget.value, app.canvas, this.node(type))
  },

  // {type: {widget: value}} of all nodes, without what a run adds: text, pictures, videos.
  values() {
    const added = ({ name, serialize }) => serialize === false || name === this.PROGRESS_TEXT
    const values = ({ widgets }) =>
      Object.fromEntries((widgets ?? []).filter((w) => !added(w)).map((w) => [w.name, w.value]))
    return Object.fromEntries(app.graph.nodes.map((node) => [node.type, values(node)]))
  },

  // {input: type of the node at the other end} of those that are connected.
  sources(type) {
    const node = this.node(type)
    const found = node.inputs.map(({ name }, slot) => [name, node.getInputNode(slot)?.type])
    return Object.fromEntries(found.filter(([, origin]) => origin))
  },

  disconnect(type, input) {
    const node = this.node(type)
    node.disconnectInput(node.inputs.findIndex((one) => one.name === input))
  },

  unknown() {
    return app.graph.nodes
      .filter((node) => !(node.type in LiteGraph.registered_node_types))
      .map((node) => node.type)
  },

  scale() {
    return app.canvas.ds.scale
  },

  title() {
    return document.title
  },

  schedules() {
    return app.canvas.graph.nodes.filter((node) => node.type === 'MoGAShotSchedule')
  },

  // As one step that a person does, which the page notices.
  step(change = () => {}) {
    app.canvas.emitBeforeChange()
    change()
    app.canvas.emitAfterChange()
  },

  // Of the first schedule, with the text encoder that it has.
  copySchedule() {
    this.step(() => {
      const [{ inputs }] = this.schedules()
      app.canvas.selectItems([this.schedules()[0]])
      app.canvas.copyToClipboard()
      app.canvas.pasteFromClipboard()
      const { origin_id } = app.canvas.graph.links.get(inputs.find(({ name }) => name === 'clip').link)
      app.canvas.graph.getNodeById(origin_id).connect(0, this.schedules().at(-1), 'clip')
    })
  },

  // A node with a text, whose link is the script of every schedule.
  feed(text) {
    this.step(() => {
      const source = LiteGraph.createNode('PrimitiveStringMultiline')
      app.canvas.graph.add(source)
      source.widgets[0].value = text
      for (const node of this.schedules())
        source.connect(0, node, node.inputs.findIndex((input) => input.name === 'script'))
    })
  },

  resize(width, height) {
    this.schedules()[0].setSize([width, height])
  },

  collapse() {
    this.schedules()[0].collapse()
  },

  bypass(on) {
    this.schedules()[0].mode = on ? 4 : 0
  },

  // How often, within a second, a timeline's elements change and the server is asked.
  async work() {
    const { element } = this.schedules()[0].widgets.find((widget) => widget.name === 'timeline')
    let changes = 0
    const observer = new MutationObserver((found) => (changes += found.length))
    observer.observe(element, { attributes: true, characterData: true, childList: true, subtree: true })
    const asked = () =>
      performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/moga/timeline')).length
    const before = asked()
    await new Promise((done) => setTimeout(done, 1000))
    observer.disconnect()
    return changes + asked() - before
  },

  // The schedule is put into a subgraph, which is opened.
  intoSubgraph() {
    const { graph } = app.canvas
    const { subgraph, node } = graph.convertToSubgraph(new Set([this.schedules()[0]]))
    app.canvas.openSubgraph?.(subgraph, node)
  },

  outOfSubgraph() {
    app.canvas.setGraph(app.graph.rootGraph ?? app.rootGraph ?? app.graph)
  },

  zoom(scale) {
    const [node] = this.schedules()
    const { ds, canvas } = app.canvas
    ds.scale = scale
    ds.offset = [350 / scale - node.pos[0], 850 / scale - node.pos[1] - node.size[1]]
    app.canvas.setDirty(true, true)
    return new Promise((drawn) => setTimeout(() => requestAnimationFrame(drawn), 200))
  },

  // Types of the nodes with a red frame. Older pages keep a list instead of a mark on the node.
  marked() {
    const failed = String(app.lastExecutionError?.node_id)
    return app.graph.nodes
      .filter(({ id, has_errors }) => has_errors || app.lastNodeErrors?.[id] || failed === String(id))
      .map((node) => node.type)
  },

  // Addresses of the pictures (img) or videos (video) that can be seen on a node.
  shown(type, tag) {
    const node = this.node(type)
    const modern = document.querySelector(`[data-node-id="${node.id}"]`)
    let found = modern?.querySelectorAll(tag)
    if (!modern && tag === 'img') found = node.imgs // drawn on the canvas
    if (!modern && tag === 'video')
      found = [...document.querySelectorAll('.dom-widget video')].filter((video) =>
        node.videoContainer?.contains(video)
      )
    return [...(found ?? [])].filter((it) => it.naturalWidth || it.videoWidth).map((it) => it.src)
  },

  // The line that the server wrote on a node; '' when none can be seen.
  text(type) {
    const node = this.node(type)
    const line = node.widgets?.find((widget) => widget.name === this.PROGRESS_TEXT)?.value
    const places = document.querySelectorAll(`[data-node-id="${node.id}"], .dom-widget`)
    const plain = (text) => text.replace(/\s+/g, ' ').trim()
    const seen = [...places].some((place) => line && plain(place.innerText).includes(plain(line)))
    return seen ? line : ''
  },
}
