// Pictures of raw RGB bytes on a canvas, one picture pixel a canvas pixel; CSS makes it large and keeps it crisp.

/** Draw height × width × 3 bytes. The canvas takes the picture's size; class "pixels" scales it by nearest neighbour. */
export function paint(canvas, bytes, height, width) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const rgba = image.data;
  for (let i = 0, j = 0; i < bytes.length; i += 3, j += 4) {
    rgba[j] = bytes[i];
    rgba[j + 1] = bytes[i + 1];
    rgba[j + 2] = bytes[i + 2];
    rgba[j + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** A message of the studio: uint32 length of a JSON head, the head, then the planes that head.planes lists. */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const planes = {};
  for (const [name, height, width] of head.planes || []) {
    planes[name] = { height, width, bytes: new Uint8Array(buffer, at, height * width * 3) };
    at += height * width * 3;
  }
  return { head, planes };
}
